"""Opens and locks the run's folder in the spool when training starts; reports or removes it at the end."""

from pathlib import Path

from recon_worker.spool.lock import SpoolBusyError
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.spool.sync_command import quoted, sync_command
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_OPEN_ATTEMPTS = 20
"""Attempts to open a folder: while it is empty, another process may remove it."""


def open_run_folder(spool_dir: Path, target: RunTarget) -> Outbox:
    """Open and lock a spool folder that this training may write to.

    Skips folders in use, and those with snapshots of an earlier process, which may belong to another scan. Other files
    of an earlier process may have the names of this run's artifacts, so a folder with such files is accepted only if
    this run continues the earlier one.
    """
    number = attempts = 1
    while True:
        folder = spool_dir / (target.run_id if number == 1 else f"{target.run_id}_{number}")
        try:
            outbox = Outbox(folder)
            outbox.take_lock(shared=True)
        except FileNotFoundError:  # its last user has just removed it
            if attempts == _OPEN_ATTEMPTS:
                message = f"{folder} was removed by another process each time it was opened."
                raise FileNotFoundError(message) from None
            attempts += 1
            continue
        except SpoolBusyError:
            pass
        else:
            if not outbox.raw() and (target.continues or not (outbox.history() or any(outbox.artifacts()))):
                return outbox
            outbox.close()
        number, attempts = number + 1, 1


def close_run_folder(outbox: Outbox) -> None:
    """Remove the folder if it is empty and no other process uses it; else log how to upload its content."""
    try:
        outbox.discard_if_alone()  # a worker of an earlier process may use the same folder
    except OSError as error:
        _log.warning("%s cannot be removed: %s", outbox.folder, error)
    for message in leftover_messages(outbox):
        _log.warning("%s", message)


def leftover_messages(outbox: Outbox) -> list[str]:
    """Describe the artifacts and snapshots in a run's folder, and how to upload them. Empty if there are none."""
    names, epochs, damaged, messages = list(outbox.artifacts()), outbox.epochs(), outbox.damaged(), list[str]()
    folder = outbox.place_now
    if epochs or names:
        what = _counted(len(epochs), "reconstruction") if epochs else _counted(len(names), "artifact")
        which = "" if epochs else f" ({', '.join(names)})"
        verb = "is" if len(epochs or names) == 1 else "are"
        kept = f"kept in {quoted(folder)}, upload with: {sync_command(folder)}"
        messages.append(f"{what}{which} {verb} not in MLflow yet; {kept}")
    if damaged:
        files = ", ".join(quoted(folder / file.relative_to(outbox.folder)) for file in damaged)
        what = f"{_counted(len(damaged), 'snapshot')} could not be rendered, or only in part; kept as {files}"
        messages.append(f"{what}. A sync retries them only with --retry-damaged; remove those you do not need.")
    return messages


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
