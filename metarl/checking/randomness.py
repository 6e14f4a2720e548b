"""Checks of an environment's randomness and state: equal seeds give equal streams, interrupted or not."""

import io

import torch

from metarl.checking.comparing import demand, global_randomness, global_seed, random_actions, same
from metarl.checking.outcomes import Check
from metarl.checking.world import World, stream
from metarl.seeding import make_generator

OTHER_SEEDS = (8, 9, 10, 11)


def _length(world: World) -> int:
    return 2 * world.sample.horizon + 1


def repeats_under_a_seed(world: World) -> None:
    """Equal seeds give equal streams, whatever the state of the global generators."""
    streams = []
    for disturbed in (1, 2):
        with global_seed(disturbed):
            streams.append(stream(world.env(seed=7), _length(world)))
    place = next((place for place, (one, other) in enumerate(zip(*streams, strict=True)) if not same(one, other)), None)
    demand(place is None, f"two environments of seed 7 differ {'in their tasks' if place == 0 else 'in their outputs'}")


def differs_between_seeds(world: World) -> None:
    """Another seed gives another stream."""
    steps = min(world.sample.horizon, 50)
    first = stream(world.env(seed=7), steps)
    others = (stream(world.env(seed=seed), steps) for seed in OTHER_SEEDS)
    demand(any(not same(first, other) for other in others), f"seeds 7, {', '.join(map(str, OTHER_SEEDS))} do the same")


def uses_no_global_randomness(world: World) -> None:
    """The global generators of Python, NumPy and torch stay where they are."""
    before = global_randomness()
    stream(world.env(), 5)
    demand(same(global_randomness(), before), "a global generator of torch, random or NumPy was used")


def does_not_depend_on_threads(world: World) -> None:
    """One thread or several of torch give the same stream."""
    before, streams, count = torch.get_num_threads(), [], world.many(2000)
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            streams.append(stream(world.env(num_tasks=count), 1))
    finally:
        torch.set_num_threads(before)
    demand(same(*streams), f"{count} lanes have other outputs with 4 threads of torch than with 1")


def resumes_from_its_state(world: World) -> None:
    """``state_dict`` between trials continues the stream in another object, and survives a safe file."""
    env = world.env(seed=1)
    stream(env, env.horizon)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    expected = stream(env, env.horizon + 2)
    resumed = world.env(seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    demand(same(stream(resumed, env.horizon + 2), expected), "what follows load_state_dict() is not what would have")


def returns_to_the_state_of_a_trial(world: World) -> None:
    """``load_trial_state`` undoes the episodes that were played since ``trial_state``."""
    env, generator = world.env(seed=1), make_generator(0)
    env.sample_tasks()

    def episode() -> list:
        said = [env.reset()]
        for _ in range(env.horizon):
            said += [part for part in env.step(random_actions(env, generator)) if part is not None]
        return said

    episode()
    trial, randomness = env.trial_state(), env.state_dict()
    streams = []
    for _ in range(3):
        env.load_trial_state(trial)
        env.load_state_dict(randomness)
        generator.manual_seed(1)
        streams.append(episode())
    demand(
        same(streams[0], streams[1]) and same(streams[0], streams[2]),
        "an episode after load_trial_state() depends on the episodes played in between",
    )


SEED_CHECKS = (  # without which no two plays can be compared
    Check(
        "the same seed repeats everything",
        repeats_under_a_seed,
        "draw from self.generator and self.task_generator (Gymnasium: self.np_random)",
        needed=True,
    ),
    Check(
        "another seed gives another play",
        differs_between_seeds,
        "seed the generators with the seed that is given",
        needed=True,
    ),
)
RANDOMNESS_CHECKS = (
    Check(
        "global randomness is not used",
        uses_no_global_randomness,
        "draw from self.generator and self.task_generator (Gymnasium: self.np_random)",
    ),
    Check("threads change nothing", does_not_depend_on_threads, "draw noise by torch, with the generator, per lane"),
    Check(
        "a saved state resumes exactly",
        resumes_from_its_state,
        "return in state_dict() all that outlasts a trial, and take it back in load_state_dict()",
    ),
    Check(
        "the state of a trial can be restored",
        returns_to_the_state_of_a_trial,
        "return copies in trial_state() of all that outlasts an episode, and take them back in load_trial_state()",
    ),
)
