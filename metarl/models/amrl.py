"""AMRL: aggregated memory for reinforcement learning (Beck et al. 2020)."""

from metarl.models.splagger import SplAgger


class AMRL(SplAgger):
    """A recurrent encoder with half of its units aggregated, and straight-through gradients.

    Every input receives the undiminished gradient of every later output: no gradient vanishes, but that of the weights
    grows with the length of a trial. Outputs and options are those of ``SplAgger``, whose gradients are exact. The
    encoder of the paper is an LSTM.
    """

    straight_through = True
