"""Train an agent: ``python run.py env=tabular_mdp model=lstm seed=3``; ``python run.py --help`` lists the options."""

import os
import sys
import tempfile
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarl.configuration.compose import resolved
from metarl.configuration.reporting import report
from metarl.errors import ConfigError, MetarlError
from metarl.launching.job import FROZEN, run_frozen, train
from metarl.runs.sweep import is_sweep, quoted, sweep_name
from metarl.trust import TYPED

RETRIES = 5

OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Train with the configuration that Hydra composed."""
    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    sweep = run_dir.parent.name if is_sweep(run_dir.parent) else None
    try:
        if job.mode == RunMode.RUN and sweep is None:
            check_single(job)
        fresh = sweep is None and is_named_by_time(job)
        train(resolved(cfg, job.runtime.choices), run_dir, sweep, TYPED, fresh)
    except MetarlError as error:
        remove_if_empty(run_dir)
        fail(error)
    finally:
        remove_if_empty(run_dir)  # created by Hydra before anything was checked


def compose_and_run() -> None:
    """Call ``main``, again where another process removes an empty directory in which Hydra is making one."""
    for _ in range(RETRIES):
        try:
            return main()
        except FileNotFoundError as error:
            functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            if "run_job" not in functions or "main" in functions:  # Hydra's, which makes the directory, then calls main
                raise
    main()


def check_single(job: HydraConf) -> None:
    """Refuse clusters and experiments that need a sweep."""
    cluster, experiment = job.runtime.choices["cluster"], job.runtime.choices["experiment"]
    if cluster != "local":
        raise ConfigError(f"cluster={cluster}: needs a sweep: run python run.py -m ...")
    if job.sweeper.get("params") or "space" in job.sweeper:
        raise ConfigError(f"experiment={experiment}: is a sweep: run python run.py -m experiment={experiment}")
    if not job.run.dir:
        raise ConfigError("hydra.run.dir= is empty: give a directory, or leave it out for a new one")


def is_named_by_time(job: Any) -> bool:
    """Whether the run directory is the default one, which two runs that start in one second share."""
    given = any(override.startswith("hydra.run.dir=") for override in job.overrides.hydra)
    return not given and "${now:" in OmegaConf.to_yaml(job.run)


def leave_directories_to_the_main_process() -> Path | None:
    """A directory of its own for a process that is not the main one of several.

    Hydra creates the run directory, and it is removed if nothing ran: processes that shared one would remove it from
    each other. They receive the path of the run from the main process.
    """
    if os.environ.get("RANK", "0") == "0" or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    own = Path(tempfile.gettempdir()) / f"metarl-rank-{uuid.uuid4().hex}"  # created by Hydra when the run starts
    sys.argv.append(f"hydra.run.dir={quoted(own)}")
    return own


def fail(error: Exception) -> None:
    """Exit with one message, or re-raise if it is not a user error."""
    if isinstance(error, (MetarlError, HydraException, OmegaConfBaseException)) and os.environ.get("RANK", "0") != "0":
        if own_directory is not None:
            remove_if_empty(own_directory)
        time.sleep(30)  # torchrun stops this process first if the main one fails alike
    if full_error or not report(error, sys.argv[1:]):
        raise error
    sys.exit(1)


def remove_if_empty(directory: Path) -> None:
    """Remove empty output directories, but never the current directory."""
    for folder in (directory, *directory.parents[: 0 if directory == own_directory else 2]):
        try:
            if Path.cwd().is_relative_to(folder.absolute()):
                return
            folder.rmdir()
        except OSError:
            return


if __name__ == "__main__":
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to fail()
    own_directory = None
    try:
        if sys.argv[1:2] == [FROZEN]:
            run_frozen(*sys.argv[2:4])
        else:
            own_directory = leave_directories_to_the_main_process()
            compose_and_run()
    except Exception as error:
        if own_directory is not None:
            remove_if_empty(own_directory)  # torchrun may stop this process next
        fail(error)
