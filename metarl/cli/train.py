"""``metarl train``, which ``run.py`` calls: compose a configuration from the command line, and train an agent.

    metarl train env=tabular_mdp model=lstm seed=3
    metarl train -m seed=0,1,2 cluster=local_pool

Hydra reads the command line, so that all of its flags work, such as ``-m`` for a sweep and ``--cfg job``.
"""

import os
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarl.configuration import search_path
from metarl.configuration.compose import resolved
from metarl.configuration.reporting import report
from metarl.errors import ConfigError, MetarlError
from metarl.launching.job import FROZEN, run_frozen, run_resolved
from metarl.runs.sweep import is_sweep, quoted, sweep_name
from metarl.trust import TYPED

RETRIES = 5
FULL_ERROR = "HYDRA_FULL_ERROR"  # environment variable: 1 shows tracebacks of errors that have a message

OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def train(program: str, arguments: Sequence[str]) -> None:
    """Train as a command line says; exit with code 1 and a message of one line on user errors.

    Args:
        program: name of the program in ``sys.argv``, which the summary of a run repeats.
        arguments: what follows it.
    """
    full_error, own_directory = os.environ.get(FULL_ERROR) == "1", None
    try:
        search_path.take(arguments)  # and they stay as they are, to be recorded; Hydra has the same flag
        search_path.find_code()
        if arguments[:1] == [FROZEN]:
            run_frozen(*arguments[1:3])
        elif {"-h", "--help"} & set(arguments):
            print(_help(), end="")
        else:
            with _command_line(program, arguments):
                own_directory = _leave_directories_to_the_main_process()
                _compose_and_train()
    except (_Refused, Exception) as raised:
        error = raised.error if isinstance(raised, _Refused) else raised
        if own_directory is not None:
            _remove_if_empty(own_directory)  # torchrun may stop this process next
        if full_error or not _said(error, arguments):
            raise error from error.__cause__
        sys.exit(1)


def _help() -> str:
    """Text of ``--help``, without Hydra, which would first read every option of every group, twice."""
    return yaml.safe_load((search_path.CONF / "hydra" / "help" / "metarl.yaml").read_text())["template"]


@contextmanager
def _command_line(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads ``sys.argv`` in here, and hands its errors to us."""
    before, full_error = sys.argv, os.environ.get(FULL_ERROR)
    sys.argv, os.environ[FULL_ERROR] = [program, *arguments], "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ[FULL_ERROR]


class _Refused(SystemExit):
    """An error with a message for the user, on its way through Hydra, which would print an exception."""

    def __init__(self, error: MetarlError):
        super().__init__(1)
        self.error = error


@hydra.main(version_base="1.3", config_path=str(search_path.CONF), config_name="config")
def _train_composed(cfg: DictConfig) -> None:
    """Train with the configuration that Hydra composed."""
    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    sweep = run_dir.parent.name if is_sweep(run_dir.parent) else None
    try:
        if job.mode == RunMode.RUN and sweep is None:
            _check_single(job)
        fresh = sweep is None and _is_named_by_time(job)
        run_resolved(resolved(cfg, job.runtime.choices), run_dir, sweep, TYPED, fresh)
    except MetarlError as error:
        raise _Refused(error) from None
    finally:
        _remove_if_empty(run_dir)  # created by Hydra before anything was checked


def _compose_and_train() -> None:
    """Compose and train, again where another process removes an empty directory in which Hydra is making one."""
    for _ in range(RETRIES):
        try:
            return _train_composed()
        except FileNotFoundError as error:
            functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            # Hydra's function makes the directory, and then calls ours.
            if "run_job" not in functions or _train_composed.__name__ in functions[functions.index("run_job") :]:
                raise
    _train_composed()


def _check_single(job: HydraConf) -> None:
    """Refuse clusters and experiments that need a sweep."""
    cluster, experiment = job.runtime.choices["cluster"], job.runtime.choices["experiment"]
    if cluster != "local":
        raise ConfigError(f"cluster={cluster}: needs a sweep: run {_command()} -m ...")
    if job.sweeper.get("params") or "space" in job.sweeper:
        raise ConfigError(f"experiment={experiment}: is a sweep: run {_command()} -m experiment={experiment}")
    if not job.run.dir:
        raise ConfigError("hydra.run.dir= is empty: give a directory, or leave it out for a new one")


def _command() -> str:
    """This program as one types it."""
    return f"python {Path(sys.argv[0]).name}" if sys.argv[0].endswith(".py") else sys.argv[0]


def _is_named_by_time(job: Any) -> bool:
    """Whether the run directory is the default one, which two runs that start in one second share."""
    given = any(override.startswith("hydra.run.dir=") for override in job.overrides.hydra)
    return not given and "${now:" in OmegaConf.to_yaml(job.run)


def _leave_directories_to_the_main_process() -> Path | None:
    """A directory of its own for a process that is not the main one of several.

    Hydra creates the run directory, and it is removed if nothing ran: processes that shared one would remove it from
    each other. They receive the path of the run from the main process.
    """
    if not _is_worker() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    own = Path(tempfile.gettempdir()) / f"metarl-rank-{uuid.uuid4().hex}"  # created by Hydra when the run starts
    sys.argv.append(f"hydra.run.dir={quoted(own)}")
    return own


def _is_worker() -> bool:
    """Whether torchrun started this process, and it is not the main one."""
    return os.environ.get("RANK", "0") != "0"


def _said(error: Exception, arguments: Sequence[str]) -> bool:
    """Print the message of a user error; false for any other."""
    if _is_worker() and isinstance(error, (MetarlError, HydraException, OmegaConfBaseException)):
        time.sleep(30)  # torchrun stops this process first if the main one fails alike
    return report(error, arguments)


def _remove_if_empty(directory: Path) -> None:
    """Remove empty output directories, but never the current directory."""
    own = directory.name.startswith("metarl-rank-")  # in a directory of other programs, which stays
    for folder in (directory, *directory.parents[: 0 if own else 2]):
        try:
            if Path.cwd().is_relative_to(folder.absolute()):
                return
            folder.rmdir()
        except OSError:
            return
