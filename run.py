"""Train an agent: ``python run.py env=tabular_mdp model=lstm seed=3``; ``python run.py --help`` lists the options."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from metarl.compose import resolved
from metarl.errors import MetarlError, report


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    job = HydraConfig.get()
    sweep = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
    run_dir = Path(job.runtime.output_dir)

    from metarl.config import build  # torch only once there is something to train
    from metarl.experiment import run

    try:
        config = resolved(cfg, job.runtime.choices)
        run(build(config, run_dir), config, sweep)
    except MetarlError as error:
        fail(error)
    finally:
        remove_if_empty(run_dir)  # Hydra made it before anything was checked


def fail(error: Exception) -> None:
    """End with one message, or go on with the traceback of what is no mistake of the user."""
    if full_error or not report(error, sys.argv[1:]):
        raise error
    sys.exit(1)


def remove_if_empty(directory: Path) -> None:
    """Leave nothing behind where nothing was run."""
    for folder in (directory, *directory.parents[:2]):
        try:
            folder.rmdir()
        except OSError:
            return


if __name__ == "__main__":
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to fail()
    try:
        main()
    except Exception as error:
        fail(error)
