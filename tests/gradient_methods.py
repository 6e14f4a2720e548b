"""Small learners that adapt by gradient steps, for tests of their meta-gradients and of their laws."""

import torch
from helpers import collected, make_algorithm, perturb

from metarl.tree import tree_map

METHODS = ("maml", "meta_sgd", "promp", "e_maml", "adapt_sv", "maesn", "tesp")
TINY = ("model.hidden_size=3", "env.horizon=4", "env.num_episodes=2", "lanes_per_task=2")


def learner(method: str, *overrides: str, env: str = "tabular_mdp", tasks: int = 3):
    agent, on = make_algorithm(f"algorithm={method}", f"env={env}", *TINY, *overrides, lanes=tasks)
    perturb(agent.policy, 0.3)
    return agent, on


def double_stages(agent, env):
    """The agent in double precision, and its stages."""
    stages = agent.stages(collected(agent, env))
    agent.double()

    def double(part):
        return part.double() if isinstance(part, torch.Tensor) and part.is_floating_point() else part

    return [
        stage._replace(
            timestep=tree_map(double, stage.timestep),
            **{name: double(part) for name, part in stage._asdict().items() if name != "timestep"},
        )
        for stage in stages
    ]


def mean_loss(agent, stages, clip=None) -> torch.Tensor:
    return agent.outer_terms(stages, clip).loss.mean()
