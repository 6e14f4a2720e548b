"""``nox`` runs lint, type checks and tests in isolated environments; ``nox -s tests -- -k resume`` passes options."""

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
    session.run("pytest", "-n", "3", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def fast(session: nox.Session) -> None:
    """The first case of each test that is not slow, for daily work."""
    install(session, "-e", ".[dev]")
    session.run("pytest", "-n", "2", "--fast", *session.posargs, env={"OMP_NUM_THREADS": "1"})
