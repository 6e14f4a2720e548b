"""Checks of an environment: spaces, finite numbers, ends of episodes, and effects of actions."""

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.checking.comparing import demand, legal_actions, random_actions, same
from metarl.checking.gymnasium_class import CLASS_CHECKS
from metarl.checking.outcomes import Check, NotApplicable
from metarl.checking.randomness import RANDOMNESS_CHECKS, SEED_CHECKS
from metarl.checking.tasks import TASK_CHECKS
from metarl.checking.world import Play, World, stack
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Renderable
from metarl.envs.rendering import RenderError
from metarl.models.distributions import action_distribution
from metarl.models.features import OneHot
from metarl.seeding import make_generator
from metarl.types import Step

USUAL_SCALE = (1 / 3, 3.0)  # of bounds of actions: policies start with a standard deviation of one


def is_made(world: World) -> None:
    """The environment can be built, and policies support its spaces."""
    env = world.env(num_tasks=4, lanes_per_task=2)
    demand(env.num_lanes == 8, f"4 tasks of 2 lanes each make {env.num_lanes} lanes, not 8")
    for name in ("horizon", "num_episodes"):
        value = getattr(env, name)
        demand(isinstance(value, int) and value > 0, f"{name}={value!r} is not a whole number above 0")
    OneHot(env.observation_space)
    action_distribution(env.action_space)


def is_played(world: World) -> None:
    """An episode of random actions within their bounds can be played."""
    env, generator = world.env(lanes_per_task=2), make_generator(0)
    env.sample_tasks()
    env.reset()
    for _ in range(env.horizon + 1):
        env.step(legal_actions(env, generator))


def has_promised_shapes(world: World) -> None:
    """Every answer has the shapes and types of the contract and of the declared space."""
    env, tasks, first, steps = world.play
    _demand_element(env.observation_space, first, env.num_lanes, "reset() gives an observation")
    for step in steps:
        demand(isinstance(step, Step), f"step() gives {type(step).__name__}, not Step")
        for name in ("observation", "final_observation"):
            _demand_element(env.observation_space, getattr(step, name), env.num_lanes, f"step() gives {name}")
        _demand_tensor(step.reward, (env.num_lanes,), torch.float32, "step() gives reward")
        for name in ("terminated", "truncated", "success"):
            if (flag := getattr(step, name)) is not None or name != "success":
                _demand_tensor(flag, (env.num_lanes,), torch.bool, f"step() gives {name}")
    known = {step.success is not None for step in steps}
    demand(len(known) == 1, "success is None in some steps and known in others")
    _demand_tensor(tasks.description, (env.num_lanes, env.task_dim), torch.float32, "the tasks have a description")


def _demand_tensor(found: Tensor, shape: tuple[int, ...], kind: torch.dtype, what: str) -> None:
    demand(isinstance(found, Tensor), f"{what} that is no tensor but {type(found).__name__}")
    told = f"{what} of shape {tuple(found.shape)} and type {str(found.dtype).removeprefix('torch.')}"
    demand(found.shape == shape and found.dtype == kind, f"{told}; it should be {shape} and {str(kind)[6:]}")


def _demand_element(space: spaces.Space, found: Tensor, lanes: int, what: str) -> None:
    discrete = isinstance(space, spaces.Discrete)
    _demand_tensor(found, (lanes, *(space.shape or ())), torch.long if discrete else torch.float32, what)


def stays_in_its_space(world: World) -> None:
    """Observations lie within the declared bounds."""
    env, _, first, steps = world.play
    seen = torch.cat([first.unsqueeze(0), stack(steps, "observation"), stack(steps, "final_observation")])
    space = env.observation_space
    if isinstance(space, spaces.Discrete):
        low, high = (seen.new_tensor(int(space.start) + last) for last in (0, int(space.n) - 1))
    elif isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(bound, device=seen.device) for bound in (space.low, space.high))
    else:
        raise NotApplicable(f"{type(space).__name__} has no bounds")
    outside = (seen < low) | (seen > high)
    demand(
        not outside.any(),
        f"observations from {seen.min().item():g} to {seen.max().item():g}, {outside.float().mean().item():.1%} of the "
        f"numbers outside {space}",
    )


def is_finite(world: World) -> None:
    """Neither NaN nor infinity anywhere."""
    _, tasks, first, steps = world.play
    named = {name: stack(steps, name) for name in ("observation", "final_observation", "reward")}
    named |= {"observation of reset()": first, "description of tasks": tasks.description}
    for name, values in named.items():
        wrong = values[~values.isfinite()] if values.is_floating_point() else values[:0]
        demand(len(wrong) == 0, f"{name}: {len(wrong)} of {values.numel()} numbers are NaN or infinite")


def goes_on_within_episodes(world: World) -> None:
    """The next observation is the one the step led to, unless an episode ended."""
    for number, step in enumerate(world.play.steps, 1):
        going = ~(step.terminated | step.truncated)
        demand(
            same(step.observation[going], step.final_observation[going]),
            f"observation and final_observation differ in step {number}, where no episode ended",
        )


def terminates_or_truncates(world: World) -> None:
    """No step is both."""
    steps = world.play.steps
    both = stack(steps, "terminated") & stack(steps, "truncated")
    demand(not both.any(), f"{int(both.sum())} steps are terminated and truncated at once")


def _ages(play: Play) -> Tensor:
    """Number of each step within its episode, from 1, ``[T, B]``."""
    age, rows = torch.zeros(play.env.num_lanes, dtype=torch.long, device=play.env.device), []
    for step in play.steps:
        age = age + 1
        rows.append(age)
        age = age * ~(step.terminated | step.truncated)
    return torch.stack(rows)


def keeps_its_time_limit(world: World) -> None:
    """An episode is cut at the horizon, neither before nor after."""
    play, horizon = world.play, world.play.env.horizon
    ages, truncated = _ages(play), stack(play.steps, "truncated")
    demand(int(ages.max()) <= horizon, f"an episode went on after step {horizon}, the horizon")
    early = ages[truncated & (ages < horizon) & ~stack(play.steps, "terminated")]
    demand(len(early) == 0, f"an episode was truncated in step {early.min() if len(early) else 0} of {horizon}")


def ends_as_declared(world: World) -> str | None:
    """No episode terminates before the horizon if episodes are declared of fixed length."""
    play = world.play
    terminated, early = stack(play.steps, "terminated"), _ages(play) < play.env.horizon
    ended = int((terminated & early).sum())
    demand(not (play.env.fixed_length and ended), f"{ended} episodes of a declared fixed length ended early")
    if play.env.fixed_length or ended:
        return None
    return "declared to end early, and no random play did: where none can, a fixed length is cheaper"


def starts_anew_when_reset(world: World) -> None:
    """A reset in the middle of an episode begins a whole new one."""
    env, generator = world.env(), make_generator(0)
    env.sample_tasks()
    whole = _steps_until_cut(env, generator)
    env.reset()
    for _ in range(env.horizon // 2):
        env.step(random_actions(env, generator))
    again = _steps_until_cut(env, generator)
    if whole is not None and again is not None:
        demand(whole == again, f"an episode is cut after {whole} steps, and after {again} if reset in the middle")


def _steps_until_cut(env: MetaEnv, generator: torch.Generator) -> int | None:
    """When the first episode after a reset is truncated; beyond the horizon if not; None where all terminate before."""
    env.reset()
    terminated = torch.zeros(env.num_lanes, dtype=torch.bool, device=env.device)
    for number in range(1, env.horizon + 1):
        step = env.step(random_actions(env, generator))
        if (step.truncated & ~step.terminated & ~terminated).any():
            return number
        terminated = terminated | step.terminated
    return None if terminated.all() else env.horizon + 1


def keeps_what_it_returned(world: World) -> None:
    """Returned tensors never change afterwards."""
    env, generator = world.env(), make_generator(0)
    said: list[tuple[Tensor, Tensor]] = []  # with a copy

    def keep(*parts: Tensor | None) -> None:
        said.extend((part, part.clone()) for part in parts if part is not None)

    for _ in range(2):
        keep(env.sample_tasks().description, env.reset())
        for _ in range(env.horizon + 1):
            keep(*env.step(random_actions(env, generator)))
    demand(
        all(same(part, copy) for part, copy in said),
        "a tensor that reset(), step() or sample_tasks() returned was changed by later calls",
    )


# ---------------------------------------------------------------- actions


def _answers(world: World, actions: list[Tensor]) -> list:
    """Outputs of equal environments for these actions ``[B, ...]``, beginning with a reset."""
    env = world.env(seed=1)
    env.sample_tasks()
    env.reset()
    return [env.step(action) for action in actions]


def _bounds(env: MetaEnv) -> tuple[Tensor, Tensor]:
    space = env.action_space
    if not isinstance(space, spaces.Box):
        raise NotApplicable(f"actions are {type(space).__name__}")
    if not (space.is_bounded("below") and space.is_bounded("above")):
        raise NotApplicable("actions have no bounds")
    low, high = (torch.as_tensor(bound, dtype=torch.float32, device=env.device) for bound in (space.low, space.high))
    return low, high


def takes_actions_of_usual_scale(world: World) -> None:
    """A standard normal action is neither always beyond the bounds nor lost between them."""
    low, high = _bounds(world.sample)
    for bound in (-low, high):
        demand(
            bool(((bound >= USUAL_SCALE[0]) & (bound <= USUAL_SCALE[1])).all()),
            f"actions lie between {low.min():g} and {high.max():g}, and policies start with a standard deviation of 1",
        )


def takes_actions_beyond_bounds(world: World) -> str | None:
    """Agents sample from normal distributions, so actions beyond the bounds come; they are taken for others."""
    low, high = _bounds(world.sample)
    signs = torch.randn(min(world.sample.horizon, 20), world.sample.num_lanes, *low.shape, generator=make_generator(2))
    signs = signs.to(low.device) > 0
    on, beyond = (_answers(world, [torch.where(row, high + more, low - more) for row in signs]) for more in (0.0, 3.0))
    if same(on, beyond):
        return None
    return "actions beyond the bounds are not the same as actions on them: costs or dynamics see them as they are"


def has_actions_that_matter(world: World) -> None:
    """Other actions under the same noise have another reward, observation or end."""
    env, generator = world.sample, make_generator(5)
    count = min(env.horizon * env.num_episodes, 200)
    if isinstance(env.action_space, spaces.Discrete) and env.action_space.n == 1:
        raise NotApplicable("there is one action alone")
    first, second = ([random_actions(env, generator) for _ in range(count)] for _ in range(2))
    demand(not same(_answers(world, first), _answers(world, second)), f"{count} other actions changed nothing")


def takes_every_action(world: World) -> None:
    """Every element of a discrete space can be played."""
    space = world.sample.action_space
    if not isinstance(space, spaces.Discrete):
        raise NotApplicable(f"actions are {type(space).__name__}")
    lanes = world.sample.num_lanes
    actions = range(int(space.start), int(space.start + space.n))
    _answers(world, [torch.full((lanes,), action, device=world.sample.device) for action in actions])


def draws_pictures(world: World) -> None:
    """Pictures are uint8 ``[height, width, 3]``, and leave no trace in what follows."""
    plain: list[Tensor] = []
    drawn: list[Tensor] = []
    for said, draws in ((plain, False), (drawn, True)):
        env, generator = world.env(seed=1), make_generator(0)
        said += [env.sample_tasks().description, env.reset()]
        for step in range(min(env.horizon, 3)):
            if draws:
                _demand_picture(env, step % env.num_lanes)
            said += [part for part in env.step(random_actions(env, generator)) if part is not None]
    demand(same(plain, drawn), "what follows a picture differs from what follows none")


def _demand_picture(env: MetaEnv, lane: int) -> None:
    if not isinstance(env, Renderable):
        raise NotApplicable("it does not support rendering")
    try:
        picture = env.render(lane)
    except RenderError as error:
        raise NotApplicable(str(error)) from None
    shape: tuple[int, ...] = getattr(picture, "shape", ())
    kind = getattr(picture, "dtype", type(picture).__name__)
    demand(
        len(shape) == 3 and shape[2] == 3 and str(kind) == "uint8",
        f"a picture is {kind} of shape {shape}; it should be uint8 [height, width, 3]",
    )


ENVIRONMENT_CHECKS = (
    Check("it can be made", is_made, "follow the message; the contract is metarl/envs/base.py", needed=True),
    Check("random actions can be played", is_played, "correct what raised the error", needed=True),
    Check(
        "actions beyond their bounds are taken",
        takes_actions_beyond_bounds,
        "clamp the actions in step(): agents sample from normal distributions",
        needed=True,
    ),
    Check(
        "shapes and types are as promised",
        has_promised_shapes,
        "return tensors [lanes, ...] of the types of Step; task_dim is the size of Tasks.description",
        needed=True,
    ),
    *SEED_CHECKS,
    Check(
        "observations lie in their space",
        stays_in_its_space,
        "declare bounds that hold, or none: spaces.Box(-np.inf, np.inf, shape)",
    ),
    Check("all numbers are finite", is_finite, "clip or guard what divides, takes roots or diverges"),
    Check(
        "observations continue within an episode",
        goes_on_within_episodes,
        "observation is final_observation except where an episode ended; there it belongs to the next one",
    ),
    Check(
        "a step is terminated or truncated, never both",
        terminates_or_truncates,
        "return truncated & ~terminated: a terminated state has no value to bootstrap from",
    ),
    Check(
        "episodes are cut at the horizon",
        keeps_its_time_limit,
        "make env.horizon the time limit of the environment itself, and no other",
    ),
    Check(
        "episodes end early only where declared",
        ends_as_declared,
        "set fixed_length = False, for an environment of Gymnasium env.ends_early=true",
    ),
    Check("a reset starts a whole episode", starts_anew_when_reset, "set the clock of every lane to 0 in reset()"),
    Check("what was returned never changes", keeps_what_it_returned, "return copies: state.clone()"),
    Check(
        "actions have the usual scale",
        takes_actions_of_usual_scale,
        "declare Box(-1, 1) and scale the actions inside the environment",
    ),
    Check("every action can be played", takes_every_action, "accept all integers of the declared space in step()"),
    Check("actions change what happens", has_actions_that_matter, "use the action in step()"),
    *TASK_CHECKS,
    *RANDOMNESS_CHECKS,
    Check(
        "pictures are pictures and leave no trace", draws_pictures, "draw from a copy; return uint8 [height, width, 3]"
    ),
    *CLASS_CHECKS,
)
