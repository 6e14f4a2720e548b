"""metarl: meta-reinforcement learning in one loop. Start at ``run.py``, then read ``metarl/trainer.py``."""

__version__ = "0.1.0"
