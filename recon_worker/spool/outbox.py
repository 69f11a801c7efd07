"""The spool: a directory in which everything waits that is not yet in MLflow. It survives every process.

    <spool>/<run id>/run.json              which run, on which server (never credentials); signed
                    /scan.npz              what the run's snapshots have in common
                    /raw/<generation>_epoch_<n>.snapshot        snapshots that wait to be rendered
                    /raw/.recon-log-capture_<place>.<process>   what large ones are captured in (`raw_file`)
                    /outbox/epoch_05/stitched/amp_pred.png   artifacts that wait to be uploaded
                    /history/{scales.json,gallery.html}      what the pictures of later epochs need
                    /.recon-log-scratch.<process>/           temporary files of who uploads, as MLflow makes them
                    /lock                                    held (flock) by whoever may empty the spool

Files appear by rename, so a file that is there is whole. All is readable by the owner only. What is found in a spool
is not trusted: paths must look like artifacts of this program, and links are not followed.
"""

import contextlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recon_worker.snapshot.artifact import HISTORY_FILES, Artifact
from recon_worker.snapshot.codec import CodecError, dump_scan, load_scan
from recon_worker.snapshot.records import Scan
from recon_worker.spool.lock import take_lock
from recon_worker.spool.snapshot_file import RawFile
from recon_worker.spool.trust import is_own, signed
from recon_worker.system.folder_owner import why_not_ours
from recon_worker.system.uris import without_credentials

_VERSION = 1
_ARTIFACT = re.compile(
    r"epoch_\d+/((patch_\d+|stitched(_object_\d+)?)/([A-Za-z0-9_]+\.png|arrays\.(npz|h5))|summary\.png)"
    r"|recon_log/(events\.csv|scales\.json|gallery\.html|evolution\.gif)"
    r"|cards/epoch_\d+/[A-Za-z0-9_]+\.step_\d+\.png|metrics/epoch_\d+\.json|description/run\.json"
)
_EPOCH = re.compile(r"(?:^|/)epoch_(\d+)[/.]")
_RAW = re.compile(r"\d{8}_epoch_(\d+)\.snapshot")
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PREFIX = ".recon-log-"
_TEMPORARY = re.compile(rf"{re.escape(_PREFIX)}.+\.\d+")
"""A file that is not complete, with the process that writes it."""
_OWN = re.compile(r"run\.json|scan\.npz|lock")
"""Files that are not worth keeping once nothing waits."""
_PARTS = {"lock", "run.json", "outbox", "raw"}
"""Some of what each run's folder holds from its beginning."""
_DAMAGED = ".damaged"
_DESCRIPTORS = Path("/proc/self/fd")

Version = tuple[int, int, int]
"""Tells a file from another that has taken its name."""


class SpoolError(ValueError):
    """A spool directory cannot be used. The message says why and what to do."""


class SpoolGoneError(SpoolError, FileNotFoundError):
    """There is no such folder, or not any more: another process has emptied it."""


@dataclass(frozen=True, kw_only=True)
class RunTarget:
    """The MLflow run that artifacts belong to."""

    run_id: str
    tracking_uri: str
    """May hold credentials in memory; they are left out of the spool."""
    earlier_run_id: str | None = None
    """The run that a resumed training continues, which may be the same one; None: it began with this run."""
    earlier_epoch: int = 0
    """Completed epochs when it was resumed."""
    earlier_fit_unix_s: float = 0.0
    """When the training that this one continues, from nothing, began to log; 0: not known."""
    started_unix_s: float = 0.0
    """When this training began to log, by which older pictures in the run are told."""

    @property
    def continues(self) -> bool:
        """Whether it goes on with what is in this run."""
        return self.earlier_run_id == self.run_id

    @property
    def fit_unix_s(self) -> float:
        """When the training that logs to this run began from nothing there; 0: not known."""
        return self.earlier_fit_unix_s if self.continues else self.started_unix_s


class Outbox:
    """One run's part of the spool. It is held by a descriptor: whatever takes its name later is not written to.

    Args:
        folder: `<spool>/<run id>`.
        create: Make the folder if it is not there, and have it be for its owner only; else nothing is changed. Of
            `<spool>`, which may be there for other things too, nothing is changed if it is there.
        descriptor: Of the folder, which another process has opened; belongs to this object from now on.

    Raises:
        SpoolGoneError: It is not there.
        SpoolError: It is a link, or somebody else's.
        OSError: It cannot be made or opened.
    """

    def __init__(self, folder: Path, *, create: bool = True, descriptor: int | None = None) -> None:
        self.folder, self._descriptor = folder, -1
        self._folders_change = threading.Lock()
        if descriptor is not None:
            self._use(descriptor)
        elif not create:
            self._hold()
        if create:
            self._make_folders("outbox", "raw")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; it cannot be used any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._use(-1)

    def _hold(self) -> None:
        """Open the folder, whose files are named by way of its descriptor from now on, where the system can do that."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise SpoolGoneError(f"{self.folder} is not a spool: it is not there.") from error
        except NotADirectoryError as error:
            raise SpoolError(f"{self.folder} is a link or no folder; a spool holds files and folders.") from error
        self.close()
        self._use(descriptor)
        refusal = why_not_ours(self._place)
        if refusal:
            raise SpoolError(f"{self.folder} cannot be used: {refusal}. Choose another spool directory.")

    def _refuse_folder_of_others(self) -> None:
        """Raise SpoolError if the folder is there for something else: a run's artifacts may lie under its id too."""
        found = {place.name for place in self._place.iterdir()}
        if found and not found & _PARTS:
            some = ", ".join(sorted(found)[:3])
            raise SpoolError(f"{self.folder} is no run's part of a spool: it holds {some}. Choose another directory.")

    def _use(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = _DESCRIPTORS / str(descriptor) if _DESCRIPTORS.is_dir() else self.folder
        self._files, self._raw, self._history = (self._place / name for name in ("outbox", "raw", "history"))

    def _make_folders(self, *names: str) -> None:
        """Have folders of the run be there, and the run's own, even if somebody has removed it."""
        if self._descriptor < 0 or not os.fstat(self._descriptor).st_nlink:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._hold()
            self._refuse_folder_of_others()
        _close(os.fstat(self._descriptor).st_mode, lambda mode: os.fchmod(self._descriptor, mode))
        for name in names:
            _make_private(self._place / name)

    @property
    def descriptor(self) -> int:
        """Of the folder."""
        return self._descriptor

    def held(self, place: Path) -> Path:
        """The name by which to open, change or remove what `place` in this folder names."""
        return self._place / place.relative_to(self.folder)

    def take_lock(self, *, shared: bool = False) -> int:
        """See `spool_lock.take_lock`."""
        return take_lock(self.folder, shared=shared, held=self._place)

    def refuse_links(self) -> None:
        """Raise SpoolError if the spool holds anything but files and folders: it could lead elsewhere."""
        for place in _below(self._place):
            with contextlib.suppress(FileNotFoundError):  # another process has just uploaded it
                mode = place.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    named = self._named(place)
                    raise SpoolError(f"{named} is a link or a device; a spool holds files and folders. Remove it.")

    def _named(self, held: Path) -> Path:
        """What `held` is for, as the user knows it."""
        return self.folder / held.relative_to(self._place)

    def describe(self, target: RunTarget, scan: Scan) -> None:
        """Write what a later `sync` needs to know."""
        record = {"version": _VERSION, **asdict(target), "tracking_uri": without_credentials(target.tracking_uri)}
        _write(self._place / "run.json", [json.dumps(signed(record), indent=1).encode()])
        _write(self._place / "scan.npz", [dump_scan(scan)])

    def target(self) -> RunTarget:
        """The run that the spool is for."""
        return self.target_and_owner()[0]

    def target_and_owner(self) -> tuple[RunTarget, bool]:
        """The run that the spool is for, and whether a training of this user wrote that (`trust`)."""
        try:
            record = json.loads((self._place / "run.json").read_bytes())
            version, run_id, uri = record["version"], record["run_id"], record["tracking_uri"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{self.folder} is not a spool: run.json cannot be read ({error}).") from error
        if version != _VERSION:
            raise SpoolError(
                f"{self.folder} was written by another version of this program (spool version {version!r}; this one "
                f"reads {_VERSION}). Use the version that wrote it."
            )
        if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id) or not isinstance(uri, str):
            raise SpoolError(f"{self.folder}/run.json does not name an MLflow run.")
        return RunTarget(run_id=run_id, tracking_uri=uri, **_resumed(record)), is_own(record)

    def scan(self) -> Scan:
        """What the run's snapshots have in common."""
        try:
            return load_scan((self._place / "scan.npz").read_bytes())
        except (OSError, CodecError) as error:
            raise SpoolError(f"{self.folder}/scan.npz cannot be read: {error}") from error

    def put(self, artifact: Artifact, taken_unix_s: float | None = None) -> None:
        """Keep an artifact until it is uploaded; an older one of the same name is replaced.

        Args:
            artifact: What to keep.
            taken_unix_s: When its snapshot was taken, kept as the file's time; None: now.
        """
        if not is_artifact_name(artifact.path):
            raise ValueError(f"{artifact.path!r} is not an artifact name of this program.")
        with self._folders_change:
            self._make_folders("outbox", *(f"outbox/{one}" for one in reversed(Path(artifact.path).parents[:-1])))
            _write(self._files / artifact.path, [artifact.data], taken_unix_s)

    def artifacts(self) -> Iterator[str]:
        """Names of the artifacts that wait, oldest epoch first; what belongs to no single epoch is last."""
        found = (str(p.relative_to(self._files)) for p in _below(self._files) if p.is_file() and not p.is_symlink())
        return iter(sorted((name for name in found if is_artifact_name(name)), key=lambda n: (epoch_of(n), n)))

    def local_path(self, name: str) -> Path:
        """Where a waiting artifact lies."""
        return self._files / name

    def version(self, name: str) -> Version | None:
        """Which file lies under a name now; None: there is none."""
        try:
            return version_of(self.local_path(name))
        except FileNotFoundError:
            return None

    def remove(self, name: str, uploaded: Version) -> None:
        """Forget an artifact that has been uploaded, unless a newer one has taken its place, and empty folders."""
        place = self._files / name
        with self._folders_change:
            if self.version(name) != uploaded:
                return
            place.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                for folder in place.parents[: len(Path(name).parents) - 1]:
                    folder.rmdir()

    def keep_history(self, files: Mapping[str, bytes]) -> None:
        """Keep what the pictures of later epochs need (`history.History.files`)."""
        self._make_folders("history")
        for name, content in files.items():
            _write(self._history / name, [content])

    def history(self) -> dict[str, bytes]:
        """What `keep_history` kept; nothing if that was not called."""
        return {name: place.read_bytes() for name in HISTORY_FILES if (place := self._history / name).is_file()}

    def put_raw(self, generation: int, epoch: int, parts: Sequence[bytes | memoryview]) -> Path:
        """Keep a snapshot (`codec.dump_snapshot`) until it is rendered."""
        place = self._raw_place(generation, epoch)
        _write(place, parts)
        return self._named(place)

    def new_raw(self, place: int | None, nbytes: int) -> RawFile:
        """A file for a snapshot whose arrays, of `nbytes`, are written in place, until `publish_raw`."""
        return RawFile(self._capture_place(place), nbytes)

    def capture_file(self, place: int | None) -> Path:
        """What the file of a place of the queue is called while no snapshot waits in it; None: of no place."""
        return self._named(self._capture_place(place))

    def _capture_place(self, place: int | None) -> Path:
        return _temporary(self._raw / ("capture" if place is None else f"capture_{place}"))

    def publish_raw(self, file: RawFile, generation: int, epoch: int, header: bytes) -> Path:
        """As `put_raw`, of a file whose arrays are complete; `header`: of `codec.snapshot_header`."""
        place = self._raw_place(generation, epoch)
        file.publish(place, header)
        return self._named(place)

    def free_raw(self, raw: Path, place: int | None) -> None:
        """A snapshot file is not needed any more: it is removed, or the place's to capture into."""
        with contextlib.suppress(FileNotFoundError):
            if place is None:
                self.held(raw).unlink()
            else:
                self.held(raw).rename(self._capture_place(place))

    def _raw_place(self, generation: int, epoch: int) -> Path:
        return self._raw / f"{generation:08d}_epoch_{epoch}.snapshot"

    def take_scratch(self) -> None:
        """Have `tempfile` write into the spool from now on: a process that is killed leaves nothing outside of it.

        On a full disk the system's own place stays.
        """
        folder = _temporary(self._place / "scratch")
        with contextlib.suppress(OSError):
            _make_private(folder)
            tempfile.tempdir = str(folder)

    def sweep(self) -> None:
        """Remove what other processes were writing, and all scratch; only for who holds the spool's lock alone."""
        for place in _below(self._place):
            if not _is_temporary(place.name):
                continue
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    def raw(self) -> list[Path]:
        """Snapshot files that wait to be rendered, oldest first."""
        found = self._raw.glob("*.snapshot")
        return sorted(self._named(p) for p in found if _RAW.fullmatch(p.name) and p.is_file() and not p.is_symlink())

    def raw_generations(self) -> dict[int, Path]:
        """The same by generation."""
        return {int(path.name.split("_")[0]): path for path in self.raw()}

    def epochs(self) -> set[int]:
        """Epochs of which a snapshot or artifacts wait."""
        rendered = {int(epoch) for name in self.artifacts() if (epoch := epoch_of(name)) < math.inf}
        return rendered | {int(match[1]) for raw in self.raw() if (match := _RAW.fullmatch(raw.name))}

    def raw_bytes(self) -> int:
        """Size of all waiting snapshots."""
        return total_bytes([self.held(raw) for raw in self.raw()])

    def set_aside(self, raw: Path) -> Path:
        """Keep a snapshot file that cannot be rendered, under a name that is not tried again."""
        kept = raw.with_name(raw.name + _DAMAGED)
        self.held(raw).rename(self.held(kept))
        return kept

    def take_back_damaged(self) -> None:
        """Have the snapshot files that were set aside wait again, beside those of the same name, if there are any."""
        for one in self.damaged():
            place = self.held(one.with_name(one.name.removesuffix(_DAMAGED)))
            if not place.exists():
                self.held(one).rename(place)

    def damaged(self) -> list[Path]:
        """Snapshot files that were set aside."""
        return sorted(map(self._named, self._raw.glob(f"*{_DAMAGED}")))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that anyone could want."""
        return not any(self._is_wanted(p.relative_to(self._place)) for p in _below(self._place) if not p.is_dir())

    def _is_wanted(self, file: Path) -> bool:
        known = file.parts[0] == self._history.name or _OWN.fullmatch(file.name) or _is_temporary(file.name)
        return not known and not _is_temporary(file.parts[0])

    def discard(self) -> None:
        """Remove the spool if nothing is left in it. Who opens it at that moment finds all of it or nothing."""
        if not self.is_in_place or not self.is_empty:
            return
        name, doomed = self.folder.name, _temporary(self.folder).name
        parent = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not self._is_called(name, parent):
                return
            os.rename(name, doomed, src_dir_fd=parent, dst_dir_fd=parent)
            for place in self._place.iterdir():
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)
            os.rmdir(doomed, dir_fd=parent)
        finally:
            os.close(parent)

    @property
    def is_in_place(self) -> bool:
        """Whether its name still names this folder: it may have been removed, or something else put there."""
        return self._is_called(self.folder)

    @property
    def place_now(self) -> Path:
        """Where the folder is: somebody may have renamed it, or one above it. As it was opened, where none can tell."""
        return self.folder if self.is_in_place or self._place == self.folder else self._place.readlink()

    def _is_called(self, name: str | Path, parent: int | None = None) -> bool:
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(self._descriptor))
        return False


def _make_private(folder: Path) -> None:
    """Have a folder be there, for its owner only, whatever the umask says."""
    folder.mkdir(mode=0o700, exist_ok=True)
    mode = folder.lstat().st_mode
    if stat.S_ISDIR(mode):  # what a link leads to is not ours to change
        _close(mode, folder.chmod)


def _close(mode: int, change: Callable[[int], None]) -> None:
    if mode & 0o777 != 0o700:
        with contextlib.suppress(OSError):  # somebody else's, read-only, or of a file system that has no such modes
            change(stat.S_IMODE(mode) & ~0o777 | 0o700)


def _resumed(record: dict[str, Any]) -> dict[str, Any]:
    """When the training began, and which one it continues, by run.json; nothing if that is not all there."""
    names = ("earlier_run_id", "earlier_epoch", "earlier_fit_unix_s", "started_unix_s")
    run_id, epoch, fit, started = (record.get(name, 0.0) for name in names)
    named = run_id is None or (isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) is not None)
    if not named or type(epoch) is not int or type(fit) is not float or type(started) is not float:
        return {}
    return dict(zip(names, (run_id, epoch, fit, started), strict=True))


def version_of(file: Path) -> Version:
    """Which file lies there now."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def is_artifact_name(path: str) -> bool:
    """Whether this program gives artifacts such names; nothing else is written, uploaded or removed."""
    return _ARTIFACT.fullmatch(path) is not None


def epoch_of(name: str) -> float:
    """The epoch that an artifact belongs to; infinity for those of the whole run, such as the gallery."""
    found = _EPOCH.search(name)
    return int(found[1]) if found else math.inf


def total_bytes(files: Sequence[Path]) -> int:
    """Size of files; those that vanish meanwhile count nothing."""
    total = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def _below(folder: Path) -> Iterator[Path]:
    """All files, folders and links below a folder; links are not followed, and folders may vanish meanwhile."""

    def give_up(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, folders, files in os.walk(folder, onerror=give_up):
        yield from (Path(parent, name) for name in (*folders, *files))


def _temporary(place: Path) -> Path:
    """What a file is called until it is complete."""
    return place.with_name(f"{_PREFIX}{place.name}.{os.getpid()}")


def _is_temporary(name: str) -> bool:
    """Whether this program calls files so that are not complete; nothing else is swept."""
    return _TEMPORARY.fullmatch(name) is not None


def _write(place: Path, parts: Sequence[bytes | memoryview], time_s: float | None = None) -> None:
    """Write under another name and rename: whoever finds the file finds all of it."""
    temporary = _temporary(place)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                stream.write(part)
        if time_s is not None:
            os.utime(temporary, (time_s, time_s))
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
