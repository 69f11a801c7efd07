"""`recon-worker status`: number, size and age of the files waiting in a run's spool.

Read-only, so it is safe while a training run writes to the spool. Files that vanish meanwhile have been uploaded.
"""

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from recon_worker.spool.lock import is_locked
from recon_worker.spool.outbox import Outbox, total_bytes
from recon_worker.spool.sync_command import sync_command
from recon_worker.spool.trust import why_refused
from recon_worker.system.databases import is_sqlite, why_not_mlflows
from recon_worker.system.messages import size_text
from recon_worker.system.uris import shown

_UNITS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """Files waiting in one run's spool."""

    folder: str
    run_id: str
    tracking_uri: str
    """Without credentials."""
    in_use: bool
    """Whether a process uses the spool."""
    snapshots: int
    """Snapshots to render."""
    snapshots_bytes: int
    artifacts: int
    """Rendered artifacts to upload."""
    artifacts_bytes: int
    damaged: int
    """Snapshot files marked as damaged, because they could not be rendered."""
    oldest_s: float
    """Age of the oldest file, in seconds; 0 without files."""
    refusal: str
    """Why a sync would refuse to contact the server, and how to permit it; empty if permitted."""

    @property
    def left(self) -> bool:
        """Whether any file is waiting or damaged."""
        return bool(self.snapshots or self.artifacts or self.damaged)


def status(folder: Path, tracking_uri: str | None = None) -> SpoolStatus:
    """Return the status of one run's spool.

    Args:
        folder: The run's folder.
        tracking_uri: Server that a sync would use instead of the one named in the spool.

    Raises:
        SpoolError: The spool contains links, has another version, or names no run.
    """
    outbox = Outbox(folder, create=False)
    target, own = outbox.target_and_owner()
    raw, damaged = outbox.raw(), outbox.damaged()
    artifacts = [outbox.local_path(name) for name in outbox.artifacts()]
    now_s = oldest_s = time.time()
    for file in (*raw, *damaged, *artifacts):
        with contextlib.suppress(FileNotFoundError):
            oldest_s = min(oldest_s, file.lstat().st_mtime)
    uri, own = tracking_uri or target.tracking_uri, own or tracking_uri is not None
    try:
        refusal = why_not_mlflows(uri) if is_sqlite(uri) else why_refused(uri, own=own)
    except sqlite3.OperationalError as error:
        refusal = f"{shown(uri)} cannot be inspected now: {error}."
    return SpoolStatus(
        folder=str(folder),
        run_id=target.run_id,
        tracking_uri=shown(target.tracking_uri),
        in_use=is_locked(folder),
        snapshots=len(raw),
        snapshots_bytes=total_bytes(raw),
        artifacts=len(artifacts),
        artifacts_bytes=total_bytes(artifacts),
        damaged=len(damaged),
        oldest_s=now_s - oldest_s,
        refusal=refusal or "",
    )


def describe(one: SpoolStatus) -> str:
    """Format a status for the terminal."""
    lines = [f"run {one.run_id} at {one.tracking_uri}{' (in use by another process)' if one.in_use else ''}"]
    if not one.left:
        return f"{lines[0]}\n  nothing is left"
    if one.snapshots or one.artifacts:
        unit, length_s = next((unit for unit in _UNITS.items() if one.oldest_s >= unit[1]), ("s", 1))
        lines += [
            f"{one.snapshots} snapshots to render ({size_text(one.snapshots_bytes)}), {one.artifacts} artifacts to "
            f"upload ({size_text(one.artifacts_bytes)}), the oldest {one.oldest_s / length_s:.0f} {unit} old",
            f"upload with: {sync_command(one.folder)}",
        ]
    if one.refusal:
        lines += [f"sync refuses: {one.refusal}"]
    if one.damaged:
        lines += [f"{one.damaged} damaged snapshots, raw/*.damaged, which sync tries again only with --retry-damaged"]
    return "\n  ".join(lines)
