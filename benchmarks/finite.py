"""Cost of checking that every number is finite."""

from timing import Row, cpu_seconds, learner, trial_of

from metarl.finite import check_diagnostics, check_parameters, check_rollout
from metarl.seeding import make_generator

SETTINGS = {"bandit": (), "cheetah_vel": ("env=cheetah_vel",)}


def rows() -> list[Row]:
    """Share of the CPU time of an iteration: trials on new tasks, an update, and the checks; one thread."""
    return [
        Row(f"finite numbers, {name}: share of an iteration", share(*given), 0.01, most=True)
        for name, given in SETTINGS.items()
    ]


def share(*overrides: str) -> float:
    """CPU time of the checks of an iteration as a share of the iteration."""
    agent, env = learner(*overrides)
    trial = trial_of(agent, env)
    diagnostics = agent.update(trial, 0.0, make_generator(0))

    def check() -> None:
        for rollout in trial:
            check_rollout(rollout, agent)
        check_diagnostics(diagnostics)
        check_parameters(agent)

    def iterate() -> None:
        agent.update(trial_of(agent, env), 0.0, make_generator(0))

    seconds = cpu_seconds({"iteration": iterate, "check": check})
    return seconds["check"] / seconds["iteration"]
