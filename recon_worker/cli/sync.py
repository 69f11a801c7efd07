"""`recon-worker sync`: renders and uploads the files waiting in a spool.

    snapshots -> process of SpoolRenderer -> outbox -> Uploader -> MLflow

A snapshot is removed once rendered, a file once uploaded, the folder once empty; the spool is locked meanwhile. A sync
may be interrupted at any time and repeated: files that are not uploaded are kept.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from recon_worker.cli.console import ExitCode, say
from recon_worker.cli.spool_renderer import CrashError, ShortageError, SpoolRenderer
from recon_worker.snapshot.artifact import Failure
from recon_worker.spool.folder import SpoolError
from recon_worker.spool.lock import SpoolBusyError
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
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
_ATTEMPTS = 2
"""Number of processes that may crash on one snapshot."""
_WAITS_S = (0.0, 1.0, 4.0)
"""Delay before each round over the snapshots; another round follows only if the machine lacked a resource."""
_OF_RUN, _REFERENCE = "the pictures of the whole run", "the reference pictures"


@dataclass
class Budget:
    """Remaining time for uploads, shared by all runs."""

    left_s: float


def sync(
    folders: Sequence[Path], tracking_uri: str | None, timeout_s: float, *, retry_damaged: bool = False
) -> ExitCode:
    """Render and upload the waiting files, run after run; `timeout_s` limits the uploads of all runs together.

    `tracking_uri` replaces the server named in the spool. `retry_damaged` renders damaged snapshots again.
    """
    os.environ.update(for_uploads(os.environ))
    budget = Budget(timeout_s)
    codes = (_sync_run(folder, tracking_uri, budget, retry_damaged=retry_damaged) for folder in folders)
    return max(codes, default=ExitCode.DONE)


def _sync_run(folder: Path, tracking_uri: str | None, budget: Budget, *, retry_damaged: bool) -> ExitCode:
    try:
        outbox = Outbox(folder, create=False)
        outbox.take_lock()
    except FileNotFoundError:
        say(f"{folder}: another process has just finished it; nothing is left")
        return ExitCode.DONE
    except (SpoolError, SpoolBusyError) as error:
        _log.error("%s", error)
        return ExitCode.BUSY if isinstance(error, SpoolBusyError) else ExitCode.ERROR
    except OSError as error:
        _log.error("%s cannot be locked, so nothing is uploaded from it: %s", folder, error)
        return ExitCode.ERROR
    try:
        target, own = outbox.target_and_owner()
        refusal = why_refused(target.tracking_uri, own=own or tracking_uri is not None)
        if refusal:
            raise SpoolError(f"Nothing is uploaded from {folder}: {refusal}")
        outbox.sweep()
        outbox.take_scratch()
        if retry_damaged:
            outbox.take_back_damaged()
        uri = tracking_uri or target.tracking_uri
        from_environment = with_absolute_path(os.environ.get("MLFLOW_TRACKING_URI", ""))
        if without_credentials(from_environment) == uri:
            uri = from_environment  # with the credentials for that server
        return _empty(outbox, replace(target, tracking_uri=uri), budget)
    except (SpoolError, OSError) as error:
        _log.error("%s", error)
        return ExitCode.ERROR
    finally:
        tempfile.tempdir = None
        outbox.unlock()


def _empty(outbox: Outbox, target: RunTarget, budget: Budget) -> ExitCode:
    """Render, upload and remove the waiting files, and print a summary."""
    code, rendered, uploaded = ExitCode.DONE, 0, 0
    for wait_s in _WAITS_S:
        time.sleep(wait_s)
        short = False
        try:
            done, short = _render_all(outbox, target)
            rendered += done
        except (SpoolError, OSError) as error:  # existing artifacts can still be uploaded
            _log.error("%s", error)
            code = ExitCode.ERROR
        uploaded += _upload_all(outbox, target, budget)  # may free disk space for the remaining snapshots
        if not short:
            break
    left = f"{len(outbox.raw())} snapshots, {len(list(outbox.artifacts()))} artifacts and "
    left += f"{len(outbox.damaged())} damaged snapshots are left in {outbox.folder}"
    outbox.sweep()
    empty = outbox.is_empty
    outbox.discard()
    say(
        f"run {target.run_id} at {shown(target.tracking_uri)}: {rendered} snapshots rendered, "
        f"{uploaded} artifacts uploaded; {'nothing is left' if empty else left}"
    )
    return max(code, ExitCode.DONE if empty else ExitCode.LEFT)


def _render_all(outbox: Outbox, target: RunTarget) -> tuple[int, bool]:
    """Render the snapshots, oldest first. Each is removed once its pictures are in the outbox.

    Returns the number of rendered snapshots, and whether a lack of resources prevented others. Raises SpoolError if
    the scan cannot be read or nothing can be rendered, OSError if a snapshot cannot be read; the snapshots are kept.
    """
    raw, rendered, short = outbox.raw(), 0, False
    waiting = [*map(outbox.held, raw), *map(outbox.local_path, outbox.artifacts())]
    if not raw and not (waiting and (outbox.history() or outbox.awaits_reference)):
        return 0, False
    taken_unix_s = max(one.stat().st_mtime for one in waiting)
    with closing(SpoolRenderer(outbox, target)) as renderer:
        failed = _render_for_run(renderer.render_reference, _REFERENCE) if outbox.awaits_reference else []
        for one in tqdm(raw, "render", unit="snapshot", disable=not shows_progress()):
            try:
                failures = _render(renderer, one, outbox.held(one).stat().st_mtime)
            except ShortageError as error:
                _log.error("%s cannot be rendered now (%s); it is kept and tried again.", one.name, error)
                short = True
                continue
            if failures:
                _log.error(
                    "%s: %d pictures cannot be rendered; the first: %s: %s. The snapshot is kept as raw/%s.",
                    one.name, len(failures), failures[0].path, failures[0].reason, outbox.mark_damaged(one).name,
                )  # fmt: skip
            else:
                outbox.held(one).unlink()
                rendered += 1
        failed += _render_for_run(lambda: renderer.render(None, taken_unix_s), _OF_RUN)
    for failure in failed:
        _log.error("%s cannot be rendered: %s", failure.path, failure.reason)
    return rendered, short


def _render_for_run(render: Callable[[], list[Failure]], what: str) -> list[Failure]:
    """Render pictures that belong to no snapshot; returns the failures."""
    try:
        return render()
    except CrashError as error:
        return [Failure(what, f"the process that rendered them died ({error})")]
    except ShortageError as error:
        return [Failure(what, str(error))]


def _render(renderer: SpoolRenderer, raw: Path, taken_unix_s: float) -> list[Failure]:
    """Render a snapshot; returns the failures. Tries a second process: the first may have died for another reason."""
    how = ""
    for _ in range(_ATTEMPTS):
        try:
            return renderer.render(raw, taken_unix_s)
        except CrashError as error:
            how = str(error)
            _log.warning("%s: the process that rendered it died (%s).", raw.name, how)
    return [Failure(f"raw/{raw.name}", f"{_ATTEMPTS} processes died while rendering it ({how})")]


def _upload_all(outbox: Outbox, target: RunTarget, budget: Budget) -> int:
    """Upload artifacts until all have arrived, time runs out, or the server refuses the rest; returns the number."""
    names = list(outbox.artifacts())
    if not names:
        return 0
    import mlflow  # noqa: F401  # imported before the deadline is set, because it takes seconds

    sink = MlflowSink(target)
    by_folder = defaultdict[str, list[str]](list)  # a folder is uploaded, and then verified, as a whole
    for name in names:
        by_folder[name.rpartition("/")[0]].append(name)
    bar = tqdm(total=len(names), desc="upload", unit="file", disable=not shows_progress())
    deadline = time.monotonic() + budget.left_s
    with bar:
        uploader = Uploader(outbox, sink, upload_threads(target.tracking_uri), lambda generation: None)
        try:
            for number, together in enumerate(by_folder.values()):
                uploader.add(number, together)
            while not (uploader.idle or uploader.refused) and time.monotonic() < deadline:
                bar.update(uploader.arrived - bar.n)
                time.sleep(_POLL_S)
        finally:
            uploader.stop()
            budget.left_s = max(0.0, deadline - time.monotonic())
            bar.update(uploader.arrived - bar.n)
    if uploader.arrived < len(names):
        timed_out = not (uploader.idle or uploader.refused)
        why = "the time limit is reached (--timeout)" if timed_out else "retrying does not help"
        server = shown(target.tracking_uri)
        _log.error("Not everything is uploaded to %s: %s. Last error: %s", server, why, sink.last_error or "none")
    return uploader.arrived
