"""What lies in a spool directory: which runs, what waits, since when; and pictures of it, without any server.

Only reads, so it may be used while a training writes to the spool: files that vanish meanwhile were uploaded.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import is_file
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.codec import read_snapshot
from recon_worker.snapshot.records import Scan
from recon_worker.spool.lock import is_locked
from recon_worker.spool.outbox import Outbox, RunTarget, SpoolError, is_artifact_name, total_bytes
from recon_worker.spool.sync_command import sync_command
from recon_worker.spool.trust import why_refused
from recon_worker.system.databases import is_sqlite, why_not_mlflows
from recon_worker.system.messages import size_text
from recon_worker.system.shortages import is_shortage
from recon_worker.system.uris import shown
from recon_worker.upload.resume import history_of_spool

_PARTS = ("run.json", "raw", "outbox")
_UNITS = {"d": 86400, "h": 3600, "min": 60}


def run_folders(directory: Path) -> list[Path]:
    """The run folders in a spool directory; a run's folder stands for itself.

    None for a folder that is not there and whose parent is a spool, which may be empty: all of it is uploaded.

    Raises:
        SpoolError: There is no such directory, or it is not a spool.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        if directory.parent.is_dir() and _runs_of_spool(directory.parent) is not None:
            return []
        raise SpoolError(f"{directory} is not there, and does not belong into a spool: the path is wrong.")
    if _is_run(directory):
        return [directory]
    folders = _runs_of_spool(directory)
    if folders is None:
        raise SpoolError(f"{directory} is not a spool: neither it nor a folder in it holds a run.json.")
    return folders


def _runs_of_spool(directory: Path) -> list[Path] | None:
    """The run folders in a directory; None if there are other things only."""
    entries: list[Path] = []
    with contextlib.suppress(FileNotFoundError):  # another process has just emptied it
        entries = [p for p in sorted(directory.iterdir()) if not p.name.startswith(".")]
    folders = [p for p in entries if _is_run(p)]
    return folders if folders or not entries else None


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in _PARTS)


def checked(outbox: Outbox) -> tuple[RunTarget, bool]:
    """A spool's target, and whether this user's training wrote that (`trust`). The spool is not changed.

    Raises:
        SpoolError: It holds links, is of another version, or does not say which run it is for.
    """
    outbox.refuse_links()
    return outbox.target_and_owner()


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """What waits in one run's spool."""

    folder: str
    run_id: str
    tracking_uri: str
    """Without credentials."""
    in_use: bool
    """Whether a process is at work on it."""
    snapshots: int
    """Snapshots to render."""
    snapshots_bytes: int
    artifacts: int
    """Rendered artifacts to upload."""
    artifacts_bytes: int
    damaged: int
    """Snapshot files that cannot be rendered and were moved aside."""
    oldest_s: float
    """Age of the oldest of all these, seconds; 0 if there is none."""
    refusal: str
    """Why a sync would not go to the server, and what to do; empty: it would."""

    @property
    def left(self) -> bool:
        """Whether anything waits or is damaged."""
        return bool(self.snapshots or self.artifacts or self.damaged)


def status(folder: Path, tracking_uri: str | None = None) -> SpoolStatus:
    """Look at one run's spool.

    Args:
        folder: The run's folder.
        tracking_uri: The server that a sync would use instead of the one that the spool names.

    Raises:
        SpoolError: See `checked`.
    """
    outbox = Outbox(folder, create=False)
    target, own = checked(outbox)
    raw, damaged = outbox.raw(), outbox.damaged()
    artifacts = [outbox.local_path(name) for name in outbox.artifacts()]
    born = list(_times([*raw, *damaged, *artifacts]))
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
        oldest_s=max(0.0, time.time() - min(born)) if born else 0.0,
        refusal=_refusal(tracking_uri or target.tracking_uri, own=own or tracking_uri is not None),
    )


def _refusal(uri: str, *, own: bool) -> str:
    """Why a sync would not go there, or empty."""
    try:
        return (why_not_mlflows(uri) if is_sqlite(uri) else why_refused(uri, own=own)) or ""
    except sqlite3.OperationalError as error:
        return f"{shown(uri)} cannot be looked at now: {error}."


def _times(files: list[Path]) -> Iterator[float]:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            yield file.lstat().st_mtime


def describe(one: SpoolStatus) -> str:
    """A status in words."""
    head = f"run {one.run_id} at {one.tracking_uri}{' (in use by another process)' if one.in_use else ''}"
    if not one.left:
        return f"{head}\n  nothing is left"
    lines = [head]
    waiting = (
        f"{one.snapshots} snapshots to render ({size_text(one.snapshots_bytes)}), "
        f"{one.artifacts} artifacts to upload ({size_text(one.artifacts_bytes)}), the oldest {_age(one.oldest_s)} old"
    )
    if one.snapshots or one.artifacts:
        lines += [waiting, f"upload with: {sync_command(one.folder)}"]
    if one.refusal:
        lines += [f"sync refuses: {one.refusal}"]
    if one.damaged:
        lines += [f"{one.damaged} damaged snapshots, raw/*.damaged, which sync tries again only with --retry-damaged"]
    return "\n  ".join(lines)


def _age(seconds: float) -> str:
    for unit, length_s in _UNITS.items():
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def pictures(scan: Scan, raw: Path, history: History) -> list[Artifact | Failure]:
    """Render a snapshot file; one that is damaged is a failure.

    Raises:
        OSError: The file cannot be read.
        Exception: The machine is short of something (`shortages`): the file can be rendered later.
    """
    try:
        return [_named_well(made) for made in render(scan, read_snapshot(raw), history)]
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes the codec, numpy or rendering raise
        if is_shortage(error):
            raise
        return [Failure(f"raw/{raw.name}", f"{type(error).__name__}: {error}")]


def _named_well(made: Artifact | Failure) -> Artifact | Failure:
    well = isinstance(made, Failure) or is_artifact_name(made.path)
    return made if well else Failure(made.path, "no artifact of this program is called so")


def render_to(folder: Path, out: Path) -> tuple[int, list[Failure]]:
    """Write a run's waiting pictures below `out`; returns how many there are, and what failed.

    Raises:
        SpoolError: See `checked`, or the scan cannot be read.
    """
    outbox = Outbox(folder, create=False)
    checked(outbox)
    names, failures, history = set[str](), list[Failure](), history_of_spool(outbox) or History()
    for name in filter(is_file, outbox.artifacts()):
        with contextlib.suppress(FileNotFoundError):
            names.add(_write(out, Artifact(name, outbox.local_path(name).read_bytes())))
    for raw in outbox.raw():
        for made in _pictures_or_shortage(outbox.scan(), outbox.held(raw), history):
            if isinstance(made, Failure):
                failures.append(made)
            elif is_file(made.path):
                names.add(_write(out, made))
    return len(names), failures


def _pictures_or_shortage(scan: Scan, raw: Path, history: History) -> list[Artifact | Failure]:
    """As `pictures`; what the machine is to blame for is a failure too: the file stays where it is."""
    try:
        return pictures(scan, raw, history)
    except FileNotFoundError:
        return []  # it was rendered meanwhile
    except (OSError, MemoryError, RuntimeError) as error:
        return [Failure(f"raw/{raw.name}", f"{type(error).__name__}: {error}")]


def _write(out: Path, artifact: Artifact) -> str:
    place = out / artifact.path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(artifact.data)
    return artifact.path
