"""The checkpoint files of `ReconQuality`: whether they can be written, are still there, and how they are removed."""

import os
from contextlib import suppress
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import AsyncCheckpointIO

from recon_worker.system.errors import reason
from recon_worker.system.messages import message_log

_log = message_log(__name__)


def exists(path: str | Path) -> bool:
    """Return whether a path exists and can be reached."""
    return os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises an error if it cannot be reached


def why_unusable(folder: Path) -> str:
    """Return why no file can be written into a folder, which may not exist yet; empty: no reason found."""
    nearest = next(one for one in (folder, *folder.parents) if exists(one))
    if not nearest.is_dir():
        return f"{nearest} is a file"
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} cannot be written"


def forget_missing(paths: dict[int, str], trainer: Trainer, *, at_end: bool) -> bool:
    """Clear the paths of checkpoints that are no longer on disk.

    Args:
        paths: Checkpoint of each epoch; empty: none.
        trainer: The Trainer, whose plugin may write checkpoints in a thread.
        at_end: Whether to wait until all are written.

    Returns:
        Whether all are written. Until then none may be removed: a better one may still fail.
    """
    plugin = trainer.strategy.checkpoint_io
    in_thread = isinstance(plugin, AsyncCheckpointIO)
    if in_thread and at_end:
        with suppress(Exception):  # Lightning raises the thread's error later
            plugin.teardown()
    saved = [epoch for epoch, path in paths.items() if path]
    missing = [epoch for epoch in saved if not exists(paths[epoch])]
    if missing and in_thread and not at_end:
        return False
    if len(missing) < len(saved):  # if all are missing, the plugin keeps them elsewhere
        paths |= dict.fromkeys(missing, "")
    return True


def remove(path: str, folder: str, trainer: Trainer) -> None:
    """Remove a checkpoint. Keeps one outside the real path `folder`, and the one from which training was resumed."""
    start = os.path.realpath(trainer.ckpt_path) if trainer.ckpt_path else ""
    if os.path.realpath(Path(path).parent) != folder or os.path.realpath(path) == start:
        return
    try:
        trainer.strategy.remove_checkpoint(path)
    except Exception as error:  # a plugin's own code may raise anything
        _log.warning("A checkpoint that is no longer needed cannot be removed: %s", reason(error))
