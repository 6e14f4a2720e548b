"""Train an agent: ``python run.py env=tabular_mdp model=lstm seed=3``; ``python run.py --help`` lists the options.

The program is ``metarl train``, see ``metarl/cli/train.py``; training itself is in ``metarl/trainer.py``.
"""

import sys

from metarl.cli.train import train

if __name__ == "__main__":
    train(sys.argv[0], sys.argv[1:])
