"""``nox`` runs lint, type checks and tests in isolated environments; ``nox -s tests -- -k resume`` passes options.

``nox -s wheel`` tries the wheel in an environment of its own, and ``nox -s tests-3.12`` another version of Python;
``nox -s docs`` builds the site of the documents.
"""

import shutil
from functools import partial
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]


def install(session: nox.Session, *what: str) -> None:
    """Install with the pinned versions."""
    session.install("-c", "constraints.txt", *what)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy over the package and run.py."""
    install(session, "-e", ".[lint]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, in three processes: on two cores one of them often waits, for SLURM or for programs."""
    install(session, "-e", ".[dev]")
    session.run("pytest", "-n", "3", "--dist", "worksteal", *session.posargs, env={"OMP_NUM_THREADS": "1"})


for version in ("3.11", "3.12", "3.13"):
    nox.session(tests.func, name=f"tests-{version}", python=version)


SMALL = ("training.total_steps=600", "meta_batch_size=20", "eval.num_tasks=20", "eval.final_num_tasks=40")


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel, built and installed without extras, trains, sweeps, evaluates and reports in another directory."""
    folder = Path(session.create_tmp())
    session.run("pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), ".")
    install(session, *map(str, folder.glob("metarl-*.whl")))
    session.chdir(folder)
    metarl = partial(session.run, "metarl", env={"OMP_NUM_THREADS": "1"})
    metarl("train", "env=cheetah_vel", *SMALL, "env.horizon=10", "eval.baselines=false", "hydra.run.dir=run")
    metarl("train", "-m", *SMALL, "seed=0,1", "cluster=local_pool", "hydra.sweep.dir=sweep")
    metarl("status", "sweep")
    metarl("evaluate", "run", "--num-tasks", "40")
    metarl("report", "run", "sweep")
    metarl("zoo")
    metarl("evaluate", "zoo:bandit_gru", "--num-tasks", "1000")
    metarl("train", "logger=wandb", success_codes=[1])  # with the command that installs it


@nox.session
def docs(session: nox.Session) -> None:
    """The site of the documents, in ``site/``; a link or a reference that leads nowhere is an error."""
    install(session, "-e", ".[docs]")
    pages = Path(session.create_tmp()).resolve() / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for name in ("docs", "results", "launch"):
        shutil.copytree(name, pages / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in Path().glob("*.md"):
        shutil.copy(page, pages)
    session.run("mkdocs", "build", "--strict", "--quiet", env={"METARL_PAGES": str(pages)})


@nox.session
def fast(session: nox.Session) -> None:
    """The first case of each test that is not slow, for daily work."""
    install(session, "-e", ".[dev]")
    session.run("pytest", "-n", "2", "--fast", *session.posargs, env={"OMP_NUM_THREADS": "1"})
