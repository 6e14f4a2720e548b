"""AMRL: aggregated memory for reinforcement learning (Beck et al. 2020)."""

from metarl.models.splagger import SplAgger


class AMRL(SplAgger):
    """A recurrent encoder with half of its units aggregated, and straight-through gradients.

    Every input is told, undiminished, what every later output is told: nothing vanishes, but the gradient of the
    parameters grows with the length of a trial. Outputs and options are those of ``SplAgger``, whose gradients are
    exact. The paper's encoder is an LSTM.
    """

    straight_through = True
