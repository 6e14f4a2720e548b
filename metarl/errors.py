"""Errors a user can correct, with a message of one line; others keep their traceback. Imports nothing heavy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class MetarlError(Exception):
    """A mistake outside the code: its message, one line, names what is wrong, and the remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(MetarlError):
    """A configuration that cannot be run; the message names the key, the value and what is allowed."""


class RunDirectoryError(MetarlError):
    """A directory that cannot hold, or does not hold, a run."""


class ContractError(MetarlError):
    """An environment that breaks its contract; the message names its class, what it did, and the remedy."""


class CheckpointError(MetarlError):
    """A checkpoint that cannot be used."""


class FileError(MetarlError, OSError):
    """A file that cannot be written; the arguments are those of ``OSError``: number, text and path."""

    REMEDIES: ClassVar = {
        errno.ENOSPC: "free some space on that disk",
        errno.EDQUOT: "free some of your quota there",
        errno.ELOOP: "it is a link, which metarl does not follow: remove it",
    }

    def __str__(self) -> str:
        remedy = self.REMEDIES.get(self.errno or 0, "choose a place that can be written to")
        return f"{self.filename}: cannot be written ({self.strerror}); {remedy}"


class NonFiniteError(MetarlError):
    """A number that is NaN or infinite, or too large to learn from; the message names it and where it was found."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Errors of environments and agents that are raised in here begin with where that was."""
    try:
        yield
    except (NonFiniteError, ContractError) as error:
        raise type(error)(f"{where}: {error}") from None


def printable(text: str) -> str:
    """One line without what would steer a terminal: values may come from somebody else's files."""
    return "".join(character if character.isprintable() else " " for character in text)
