"""Checkpoints: atomic, versioned, safe to load."""

from pathlib import Path

import torch

from metarl.errors import CheckpointError
from metarl.run_files import replacing

FORMAT = 2


def save(state: dict, path: Path) -> None:
    """Write ``state`` (tensors, numbers, strings, containers of them); a crash leaves old or new, never half."""
    with replacing(path) as file:
        torch.save({"format": FORMAT, "state": state}, file)


def load(path: Path, device: str | torch.device = "cpu") -> dict:
    """The state saved at ``path``; runs no code from the file.

    Raises:
        CheckpointError: the file is missing, damaged, of another program or of a later format.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; give the directory of a run that has saved one") from None
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise CheckpointError(
            f"{path} is damaged or no metarl checkpoint ({type(error).__name__}); "
            "delete it to continue from an older one"
        ) from None
    if not isinstance(content, dict) or "format" not in content or "state" not in content:
        raise CheckpointError(f"{path} is no metarl checkpoint; delete it to continue from an older one")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {content['format']}, this metarl reads format {FORMAT}; "
            "use the version that wrote it"
        )
    return content["state"]


def load_weights(algorithm: torch.nn.Module, path: Path, device: str | torch.device = "cpu") -> None:
    """Give ``algorithm`` the weights saved at ``path``.

    Raises:
        CheckpointError: the file cannot be used, or belongs to another architecture.
    """
    try:
        algorithm.load_state_dict(load(path, device)["algorithm"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this configuration: {' '.join(str(error).split())[:300]}") from None


class Checkpoints:
    """The checkpoints of one run: the latest few, named by iteration, and the best."""

    def __init__(self, directory: Path, keep: int = 2):
        self.directory = directory
        self.keep = keep

    def numbered(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.directory.glob("*.pt") if path.stem.isdecimal())

    def path(self, which: str) -> Path:
        """Path of ``latest`` or ``best``.

        Raises:
            CheckpointError: there is none.
        """
        numbered = self.numbered()
        if which == "latest" and numbered:
            return numbered[-1]
        if which == "best" and (self.directory / "best.pt").exists():
            return self.directory / "best.pt"
        raise CheckpointError(f"{self.directory} holds no {which} checkpoint; let the run finish an iteration first")

    def save_latest(self, state: dict, iteration: int) -> None:
        """Save and drop all but the last ``keep``."""
        save(state, self.directory / f"{iteration:08d}.pt")
        for old in self.numbered()[: -self.keep]:
            old.unlink()

    def save_best(self, state: dict) -> None:
        """Save as the best by held-out return."""
        save(state, self.directory / "best.pt")
