"""Steps per second of our lanes by ``gymnasium.make_vec``, against Gymnasium's own ways to step the same id."""

import gymnasium
from timing import Row, wall_seconds

import metarl.gymnasium_envs  # noqa: F401 (registers the environments)

NAME, LANES, STEPS = "metarl/cheetah_vel-v0", 64, 100
MODES = {"BatchedLanes": "vector_entry_point", "SyncVectorEnv": "sync", "AsyncVectorEnv": "async"}


def rows() -> list[Row]:
    """Steps per second of wall time, all cores, and the ratio to the better of the two others; the best of five."""
    envs = {name: gymnasium.make_vec(NAME, num_envs=LANES, vectorization_mode=mode) for name, mode in MODES.items()}
    try:
        seconds = wall_seconds({name: played(env) for name, env in envs.items()})
    finally:
        for env in envs.values():
            env.close()
    speeds = {name: LANES * STEPS / each for name, each in seconds.items()}
    found = [Row(f"{name} of {NAME}, {LANES} lanes: steps/s", speed) for name, speed in speeds.items()]
    ours, *others = speeds.values()
    return [*found, Row("BatchedLanes against the better of the others", ours / max(others), 2.5)]


def played(env: gymnasium.vector.VectorEnv):
    """A function that plays, with actions drawn beforehand."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(STEPS)]

    def play() -> None:
        for action in actions:
            env.step(action)

    return play
