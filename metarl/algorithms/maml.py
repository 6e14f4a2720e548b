"""MAML: model-agnostic meta-learning (Finn et al. 2017, arXiv 1703.03400)."""

from metarl.algorithms.gradient_adaptation import GradientAdaptation


class MAML(GradientAdaptation):
    """All parameters of the policy adapt, by steps of one size; see ``GradientAdaptation``."""
