"""MAML: model-agnostic meta-learning (Finn et al. 2017, arXiv 1703.03400, algorithm 3).

    sample tasks; for each of them:
        collect support episodes with theta                                 (act)
        theta' = theta - alpha grad_theta L(theta)                          (adapt; inner_gradients, sgd_step)
        collect query episodes with theta'                                  (act)
    theta <- theta - beta grad_theta sum over tasks of L(theta')            (update; MetaOptimizer.step)
        differentiating through theta', unless first_order                  (adapted_parameters)

The methods named belong to ``GradientAdaptation``. ``num_inner_steps`` repeats support and inner step. The outer step
is one of Adam (meta_optimizer=vpg), of PPO, or of TRPO as published.
"""

from metarl.algorithms.gradient_adaptation import GradientAdaptation


class MAML(GradientAdaptation):
    """All parameters of the policy adapt, with one constant step size; see ``GradientAdaptation``."""
