"""`recon-worker sync`: brings what waits in a spool into MLflow.

    raw snapshots -> SpoolRenderer's process -> outbox -> uploader -> MLflow

A snapshot is removed once it is rendered, a file once it is uploaded, the folder once it is empty. The spool is locked
meanwhile. It may be stopped at any moment and started again: what is not uploaded stays.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from recon_worker.cli.exit_code import ExitCode
from recon_worker.cli.spool_renderer import CrashError, ShortageError, SpoolRenderer
from recon_worker.cli.status import checked
from recon_worker.snapshot.artifact import Failure
from recon_worker.spool.lock import SpoolBusyError
from recon_worker.spool.outbox import Outbox, RunTarget, SpoolError
from recon_worker.spool.trust import why_refused
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.messages import message_log
from recon_worker.system.mlflow_environment import for_uploads
from recon_worker.system.standard_streams import shows_progress
from recon_worker.system.uris import shown, without_credentials
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.uploader import Uploader, upload_threads

_log = message_log(__name__)

_POLL_S = 0.05
_TRIES = 2
"""Processes that a snapshot may cost."""
_WAITS_S = (0.0, 1.0, 4.0)
"""Before each round over the snapshots; there is another one if the machine was short of something in the last."""


@dataclass
class Budget:
    """Time that may be spent on uploading, all runs together."""

    left_s: float

    @contextmanager
    def spend(self) -> Iterator[float]:
        """Gives the deadline, on the monotonic clock."""
        began = time.monotonic()
        try:
            yield began + self.left_s
        finally:
            self.left_s = max(0.0, self.left_s - (time.monotonic() - began))


def sync(
    folders: Sequence[Path], tracking_uri: str | None, timeout_s: float, *, retry_damaged: bool = False
) -> ExitCode:
    """Render and upload what waits, run after run.

    Args:
        folders: The runs' folders.
        tracking_uri: The server to use instead of the one that the spool names.
        timeout_s: Bounds the uploading of all runs together.
        retry_damaged: Render once more what could not be rendered, and was set aside as damaged.
    """
    os.environ.update(for_uploads(os.environ))
    budget = Budget(timeout_s)
    return max(
        (_sync_run(folder, tracking_uri, budget, retry_damaged=retry_damaged) for folder in folders),
        default=ExitCode.DONE,
    )


def _sync_run(folder: Path, tracking_uri: str | None, budget: Budget, *, retry_damaged: bool) -> ExitCode:
    try:
        outbox = Outbox(folder, create=False)
        lock = outbox.take_lock()
    except FileNotFoundError:
        print(f"{folder}: another process has just finished it; nothing is left")
        return ExitCode.DONE
    except SpoolError as error:
        _log.error("%s", error)
        return ExitCode.ERROR
    except SpoolBusyError as error:
        _log.error("%s", error)
        return ExitCode.BUSY
    except OSError as error:
        _log.error("%s cannot be locked, so nothing is uploaded from it: %s", folder, error)
        return ExitCode.ERROR
    try:
        target, own = checked(outbox)
        refusal = why_refused(target.tracking_uri, own=own or tracking_uri is not None)
        if refusal:
            raise SpoolError(f"Nothing is uploaded from {folder}: {refusal}")
        outbox.sweep()
        outbox.take_scratch()
        if retry_damaged:
            outbox.take_back_damaged()
        target = replace(target, tracking_uri=_uri(tracking_uri or target.tracking_uri))
        return _empty(outbox, target, lock, budget)
    except (SpoolError, OSError) as error:
        _log.error("%s", error)
        return ExitCode.ERROR
    finally:
        tempfile.tempdir = None
        os.close(lock)


def _uri(uri: str) -> str:
    """With the credentials that MLFLOW_TRACKING_URI gives for that server, if it does."""
    from_environment = with_absolute_path(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return from_environment if without_credentials(from_environment) == uri else uri


def _empty(outbox: Outbox, target: RunTarget, lock: int, budget: Budget) -> ExitCode:
    """Render, upload, remove, and say what became of it."""
    code, rendered, uploaded = ExitCode.DONE, 0, 0
    for wait_s in _WAITS_S:
        time.sleep(wait_s)
        short = False
        try:
            done, short = _render_all(outbox, target, lock)
            rendered += done
        except (SpoolError, OSError) as error:  # what is rendered already can be uploaded all the same
            _log.error("%s", error)
            code = ExitCode.ERROR
        uploaded += _upload_all(outbox, target, budget)  # which may make room for what is left
        if not short:
            break
    left = f"{len(outbox.raw())} snapshots, {len(list(outbox.artifacts()))} artifacts and "
    left += f"{len(outbox.damaged())} damaged snapshots are left in {outbox.folder}"
    outbox.sweep()
    empty = outbox.is_empty
    outbox.discard()
    print(
        f"run {target.run_id} at {shown(target.tracking_uri)}: {rendered} snapshots rendered, "
        f"{uploaded} artifacts uploaded; {'nothing is left' if empty else left}"
    )
    return max(code, ExitCode.DONE if empty else ExitCode.LEFT)


def _render_all(outbox: Outbox, target: RunTarget, lock: int) -> tuple[int, bool]:
    """Render the snapshots, oldest first. Each is removed once its pictures are in the outbox.

    Returns:
        How many were rendered, and whether the machine was short of something for others, which stay.

    Raises:
        SpoolError: The scan cannot be read, or no snapshot of this spool can be rendered; the snapshots stay.
        OSError: The same of a snapshot.
    """
    raw, rendered, short = outbox.raw(), 0, False
    waiting = [*map(outbox.held, raw), *map(outbox.local_path, outbox.artifacts())]
    if not raw and not (waiting and outbox.history()):
        return 0, False
    taken_unix_s = max(one.stat().st_mtime for one in waiting)
    with SpoolRenderer(outbox, target, lock) as renderer:
        for one in tqdm(raw, "render", unit="snapshot", disable=not shows_progress()):
            try:
                failures = _render(renderer, one)
            except ShortageError as error:
                _log.error("%s cannot be rendered now (%s); it is kept, and tried again.", one.name, error)
                short = True
                continue
            if failures:
                _log.error(
                    "%s: %d pictures cannot be made; the first: %s: %s. The snapshot is kept as raw/%s.",
                    one.name, len(failures), failures[0].path, failures[0].reason, outbox.set_aside(one).name,
                )  # fmt: skip
            else:
                outbox.held(one).unlink()
                rendered += 1
        _render_end(renderer, taken_unix_s)
    return rendered, short


def _render(renderer: SpoolRenderer, raw: Path) -> list[Failure]:
    """Render a snapshot; returns what failed. It may cost two processes: the first may have died of something else."""
    how = ""
    for _ in range(_TRIES):
        try:
            return renderer.render(raw)
        except CrashError as error:
            how = str(error)
            _log.warning("%s: the process that rendered it died (%s).", raw.name, how)
    return [Failure(f"raw/{raw.name}", f"{_TRIES} processes died over it ({how})")]


def _render_end(renderer: SpoolRenderer, taken_unix_s: float) -> None:
    """What is made when no more snapshots come; `taken_unix_s`: when the last one was taken."""
    try:
        failures = renderer.finish(taken_unix_s)
    except CrashError as error:
        failures = [Failure("what comes last", f"the process that rendered it died ({error})")]
    except ShortageError as error:
        failures = [Failure("what comes last", str(error))]
    for failure in failures:
        _log.error("%s cannot be made: %s", failure.path, failure.reason)


def _upload_all(outbox: Outbox, target: RunTarget, budget: Budget) -> int:
    """Upload the artifacts until all are, the time is over or nothing can be done; returns how many were."""
    names = list(outbox.artifacts())
    if not names:
        return 0
    import mlflow  # noqa: F401  # here, so that the seconds it takes do not count

    sink = MlflowSink(target)
    threads = upload_threads(target.tracking_uri)
    bar = tqdm(total=len(names), desc="upload", unit="file", disable=not shows_progress())
    with bar, budget.spend() as deadline:
        uploader = Uploader(outbox, sink, threads, lambda generation: None)
        try:
            for number, together in enumerate(_by_folder(names)):
                uploader.add(number, together)
            while not (uploader.idle or uploader.refused) and time.monotonic() < deadline:
                bar.update(uploader.arrived - bar.n)
                time.sleep(_POLL_S)
        finally:
            uploader.stop()
            bar.update(uploader.arrived - bar.n)
    if uploader.arrived < len(names):
        over = not (uploader.idle or uploader.refused)
        why = "the time is over (--timeout)" if over else "trying again does not help"
        server = shown(target.tracking_uri)
        _log.error("Not all is uploaded to %s: %s. Last error: %s", server, why, sink.last_error or "none")
    return uploader.arrived


def _by_folder(names: Sequence[str]) -> list[list[str]]:
    """What is uploaded, and then looked for, together."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return list(folders.values())
