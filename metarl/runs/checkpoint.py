"""Checkpoints: atomic, versioned, safe to load, and refused where a single bit of them has changed."""

import hashlib
import io
import re
import zipfile
from pathlib import Path

import torch

from metarl.errors import CheckpointError, RunDirectoryError
from metarl.runs.files import refuse_link, replacing
from metarl.runs.reader import read_bytes

FORMAT = 3
MOST_BYTES = 2**36
WITHOUT_DIGEST = 2  # the format before, which is read still
# What ends the file: the digest of all before it. PyTorch's own reader takes no notice of it.
MARK = b"\nmetarl checkpoint, SHA-256 "
END = re.compile(re.escape(MARK) + rb"([0-9a-f]{64})\n\Z")
LENGTH = len(MARK) + 64 + 1


def save(state: dict, path: Path) -> None:
    """Write ``state`` (tensors, numbers, strings, containers of them); a crash leaves old or new, never half."""
    content = io.BytesIO()
    torch.save({"format": FORMAT, "state": state}, content)
    with replacing(path) as file:
        file.write(content.getbuffer())
        file.write(MARK + hashlib.sha256(content.getbuffer()).hexdigest().encode() + b"\n")


def load(path: Path, device: str | torch.device = "cpu") -> dict:
    """The state saved at ``path``; runs no code from the file.

    Raises:
        CheckpointError: the file is missing, damaged, of another program or of a later format.
    """
    try:
        data = read_bytes(path, most=MOST_BYTES)
    except RunDirectoryError as error:
        raise CheckpointError(f"{error}; {_remedy(path)}") from None
    if data is None:
        raise CheckpointError(f"no checkpoint at {path}; give the directory of a run that has saved one")
    end = END.search(data, max(0, len(data) - LENGTH))
    if end is not None and hashlib.sha256(memoryview(data)[: end.start()]).hexdigest().encode() != end[1]:
        raise CheckpointError(f"{path} is damaged (its digest is another); {_remedy(path)}")
    try:
        _check_unpacked(data)
        content = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise CheckpointError(
            f"{path} is damaged or no metarl checkpoint ({type(error).__name__}); {_remedy(path)}"
        ) from None
    if not isinstance(content, dict) or "format" not in content or not isinstance(content.get("state"), dict):
        raise CheckpointError(f"{path} is no metarl checkpoint; {_remedy(path)}")
    if content["format"] not in (FORMAT, WITHOUT_DIGEST):
        raise CheckpointError(
            f"{path} has checkpoint format {content['format']}, this metarl reads format {FORMAT}; "
            "use the version that wrote it"
        )
    if content["format"] == FORMAT and end is None:
        raise CheckpointError(f"{path} is damaged (its digest is missing); {_remedy(path)}")
    return content["state"]


def _check_unpacked(data: bytes) -> None:
    """Refuse an archive whose members are packed, as PyTorch's never are: a small one could fill the memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("packed members")


def _remedy(path: Path) -> str:
    """Remedy for a checkpoint at ``path`` that cannot be used."""
    if not path.stem.isdecimal():
        return "delete it; the latest checkpoint is another file"
    older = [other for other in Checkpoints(path.parent).numbered() if other.name < path.name]
    if older:
        return f"delete it to go on from the older {older[-1].name}"
    return "delete it; there is no older one, so the run starts again"


def load_weights(algorithm: torch.nn.Module, path: Path, device: str | torch.device = "cpu") -> dict:
    """Give ``algorithm`` the weights saved at ``path``; returns all that is saved there.

    Raises:
        CheckpointError: the file cannot be used, or belongs to another architecture.
    """
    state = load(path, device)
    set_weights(algorithm, state, path)
    return state


def set_weights(algorithm: torch.nn.Module, state: dict, path: Path) -> None:
    """Give ``algorithm`` the weights in ``state``, which was read at ``path``.

    Raises:
        CheckpointError: they belong to another architecture.
    """
    try:
        algorithm.load_state_dict(state["algorithm"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit this configuration (a run of an earlier version needs the commit in its summary): "
            f"{' '.join(str(error).split())[:300]}"
        ) from None


class Checkpoints:
    """The checkpoints of one run: the latest few, named by iteration, and the best."""

    def __init__(self, directory: Path, keep: int = 2):
        self.directory = directory
        self.keep = keep

    def numbered(self) -> list[Path]:
        """Paths of the numbered checkpoints, oldest first."""
        refuse_link(self.directory)
        return sorted(path for path in self.directory.glob("*.pt") if path.stem.isdecimal())

    def path(self, which: str) -> Path:
        """Path of ``latest``, ``best`` or the number of an iteration.

        Raises:
            CheckpointError: there is none.
        """
        numbered = self.numbered()
        if which.isdecimal():
            return self._of_iteration(int(which), numbered)
        if which == "latest" and numbered:
            return numbered[-1]
        if which == "best" and (self.directory / "best.pt").exists():
            return self.directory / "best.pt"
        name = "best.pt" if which == "best" else "*.pt"
        has_best = (self.directory / "best.pt").exists()
        remedy = "let the run finish an iteration" + (", or choose the checkpoint best" if has_best else "")
        raise CheckpointError(f"{self.directory / name}: no {which} checkpoint is there; {remedy}")

    def _of_iteration(self, iteration: int, numbered: list[Path]) -> Path:
        for path in numbered:
            if int(path.stem) == iteration:
                return path
        kept = ", ".join(str(int(path.stem)) for path in numbered) or "none"
        raise CheckpointError(
            f"{self.directory}: no checkpoint of iteration {iteration}; kept are {kept} (training.keep_checkpoints)"
        )

    def best_problem(self) -> str | None:
        """Why the best checkpoint cannot be used; None where it can."""
        try:
            load(self.path("best"))
        except CheckpointError as error:
            return str(error)
        return None

    def save_latest(self, state: dict, iteration: int) -> None:
        """Save and drop all but the last ``keep``."""
        refuse_link(self.directory)
        save(state, self.directory / f"{iteration:08d}.pt")
        self.drop_old()

    def drop_old(self) -> None:
        """Drop all but the last ``keep``; a kill can leave more."""
        for old in self.numbered()[: -self.keep]:
            old.unlink(missing_ok=True)

    def save_best(self, state: dict) -> None:
        """Save as the best by held-out return."""
        refuse_link(self.directory)
        save(state, self.directory / "best.pt")
