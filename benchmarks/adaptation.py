"""Gradient adaptation with per-task parameters stacked, against a loop over tasks."""

from collections.abc import Iterator
from operator import itemgetter

import torch
from timing import Row, cpu_seconds, learner
from torch import Tensor
from torch.func import functional_call

from metarl.algorithms.gradient_adaptation import GradientAdaptation
from metarl.algorithms.samples import Samples
from metarl.tree import tree_map
from metarl.types import Timestep

NETWORK = (
    "meta_optimizer=vpg",
    "algorithm.entropy_coefficient=0",
    "model.hidden_size=100",
    "model.num_layers=2",
    "env=cheetah_dir",
    "env.num_episodes=1",
)


def rows() -> Iterator[Row]:
    """One outer gradient of MAML (2 x 100 tanh, second order), and acting; one thread, CPU time."""
    torch.set_num_threads(1)
    for tasks, samples, least in ((40, 200, 1.5), (20, 4000, 1.0)):
        yield Row(
            f"outer gradient, {tasks} tasks x {samples} samples: against a loop over tasks",
            ratio(tasks, samples),
            least,
        )
    yield Row("acting, 40 tasks x 20 lanes: against a loop over tasks", acting(40, 20), 2)


def stages(agent: GradientAdaptation, env, tasks: int, samples: int) -> list[Samples]:
    """Random samples of a support rollout and of a query rollout."""
    observation = torch.randn(tasks, samples, *env.observation_space.shape)
    action = torch.randn(tasks, samples, *env.action_space.shape)
    numbers = torch.randn(tasks, samples)
    first = torch.zeros(tasks, samples, dtype=torch.bool)
    timestep = Timestep(observation, observation, action, numbers, first)
    acted = torch.randn(tasks, samples, agent.policy.distribution.num_parameters)
    one = Samples(timestep, action, numbers, numbers, numbers, numbers, ~first, samples, {}, acted)
    return [one, one]


def ratio(tasks: int, samples: int) -> float:
    """Speed of stacked adaptation relative to a loop over tasks."""
    agent, env = learner("algorithm=maml", *NETWORK, "meta_batch_size=2", "lanes_per_task=1")
    given = stages(agent, env, tasks, samples)
    parameters = [p for name, p in agent.policy.named_parameters() if "value_head" not in name]

    def ours() -> None:
        for chosen in agent.chunks(given[0]):
            loss = agent.outer_terms([stage.select(chosen) for stage in given], None).loss.sum()
            torch.autograd.grad(loss, parameters)

    def loop() -> None:
        for task in range(tasks):
            torch.autograd.grad(plain_loss(agent, [stage.select(slice(task, task + 1)) for stage in given]), parameters)

    seconds = cpu_seconds({"ours": ours, "loop": loop}, repeats=3)
    return seconds["loop"] / seconds["ours"]


def plain_loss(agent: GradientAdaptation, given: list[Samples]) -> Tensor:
    """MAML's outer loss of one task, written with plain autograd."""
    policy, start = agent.policy, agent.inner_parameters()
    log_prob = policy.distribution.log_prob

    def run(parameters: dict[str, Tensor], stage: Samples) -> Tensor:
        timestep = tree_map(itemgetter(0), stage.timestep)
        output, _ = functional_call(policy, parameters, (timestep, ((),), timestep.first))
        return log_prob(output.distribution_params, stage.action[0])

    inner = -(run(start, given[0]) * given[0].advantage[0]).mean()
    gradients = torch.autograd.grad(inner, list(start.values()), create_graph=True, materialize_grads=True)
    named = zip(start.items(), gradients, strict=True)
    adapted = {name: value - agent.inner_learning_rate * gradient for (name, value), gradient in named}
    return -((run(adapted, given[1]) - given[1].log_prob[0]).exp() * given[1].advantage[0]).mean()


@torch.no_grad()
def acting(tasks: int, lanes: int) -> float:
    """Speed of acting with stacked parameters relative to a loop over tasks."""
    agent, env = learner("algorithm=maml", *NETWORK, f"meta_batch_size={tasks}", f"lanes_per_task={lanes}")
    generator = torch.Generator()
    env.sample_tasks()
    state = agent.initial_state(env.tasks)
    state = state._replace(parameters={name: value.clone() for name, value in state.parameters.items()})
    count = tasks * lanes
    observation, action = torch.randn(count, *env.observation_space.shape), torch.zeros(count, *env.action_space.shape)
    timestep = Timestep(observation, observation, action, torch.zeros(count), torch.zeros(count, dtype=torch.bool))
    own = [{name: value[task] for name, value in state.parameters.items()} for task in range(tasks)]
    parts = [tree_map(itemgetter(slice(task * lanes, (task + 1) * lanes)), timestep) for task in range(tasks)]

    def loop() -> None:
        for parameters, part in zip(own, parts, strict=True):
            output, _ = functional_call(agent.policy, parameters, (part, ((),), part.first))
            agent.policy.distribution.sample(output.distribution_params, generator)

    seconds = cpu_seconds({"ours": lambda: agent.act(timestep, state, generator), "loop": loop}, repeats=21)
    return seconds["loop"] / seconds["ours"]
