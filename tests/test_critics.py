"""Critics: what they may read, and that actions do not depend on them."""

import pytest
import torch
from helpers import collected, make_algorithm, perturb


def copied(from_agent, to_agent) -> None:
    """Give the weights both have."""
    both = {name: value for name, value in from_agent.state_dict().items() if name in to_agent.state_dict()}
    to_agent.load_state_dict(both, strict=False)


@pytest.mark.parametrize("critic", ["separate", "privileged"])
def test_another_critic_changes_values_but_no_action(model_option, critic):
    plain, env = make_algorithm(f"model={model_option}", "env=tabular_mdp")
    other, other_env = make_algorithm(f"model={model_option}", "env=tabular_mdp", f"model.critic={critic}")
    perturb(plain, 0.3)
    perturb(other, 0.3, seed=1)
    copied(plain, other)
    (left,), (right,) = collected(plain, env), collected(other, other_env)
    assert torch.equal(left.decision.action, right.decision.action)
    assert torch.equal(left.decision.log_prob, right.decision.log_prob)
    assert not torch.allclose(left.decision.value, right.decision.value, atol=1e-2)


def test_only_the_privileged_critic_reads_the_task():
    for critic in ("shared", "separate", "privileged"):
        agent, env = make_algorithm("env=tabular_mdp", f"model.critic={critic}")
        perturb(agent, 0.3)
        (rollout,) = collected(agent, env)
        carry, task = agent.policy.initial_carry(env.num_lanes), rollout.tasks.description
        before, _ = agent.policy(rollout.timestep, carry, task)
        after, _ = agent.policy(rollout.timestep, carry, task + 1)
        assert torch.equal(before.distribution_params, after.distribution_params)
        assert torch.equal(before.value, after.value) == (critic != "privileged")


def test_the_privileged_critic_of_a_lane_reads_the_task_of_that_lane():
    agent, env = make_algorithm("env=tabular_mdp", "model.critic=privileged")
    perturb(agent, 0.3)
    (rollout,) = collected(agent, env)
    changed = rollout.tasks.description.clone()
    changed[2] += 1
    carry = agent.policy.initial_carry(env.num_lanes)
    before, after = (agent.policy(rollout.timestep, carry, t)[0].value for t in (rollout.tasks.description, changed))
    assert [torch.equal(before[:, lane], after[:, lane]) for lane in range(4)] == [True, True, False, True]
