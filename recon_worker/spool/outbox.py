"""The content of a run's folder in the spool: all data of a run that is not yet in MLflow.

    <spool>/<run id>/run.json              run and server, never credentials; signed (`run_target`)
                    /scan.npz              data common to all snapshots of the run
                    /reference              exists until the reference pictures are made; counts the attempts
                    /raw/<generation>_epoch_<n>.snapshot        snapshots to render
                    /raw/.recon-log-capture_<slot>.<process>    files that captures write in place
                    /outbox/epoch_05/stitched/amp_pred.png      artifacts to upload
                    /history/{scales.json,gallery.html}         state for the pictures of later epochs
                    /.recon-log-scratch.<process>/              temporary files of MLflow's uploads
                    /lock                                       see `lock`

File names are not trusted: only artifact names of this program are written, uploaded or removed.
"""

import contextlib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recon_worker.pictures.records import DESCRIPTION_NAME
from recon_worker.snapshot.artifact import HISTORY_FILES, Artifact
from recon_worker.snapshot.codec import CodecError, dump_scan, dump_snapshot, load_scan
from recon_worker.snapshot.records import Scan
from recon_worker.spool.folder import RunFolder, SpoolError, temporary_path, walk, write_whole
from recon_worker.spool.run_target import RunTarget, dump_target, read_target
from recon_worker.system.messages import message_log

if TYPE_CHECKING:
    from recon_worker.spool.snapshot_file import RawFile

_log = message_log(__name__)

_ARTIFACT = re.compile(
    r"epoch_\d+/((patch_\d+|stitched(_object_\d+)?)/([A-Za-z0-9_]+\.(png|dzi)|arrays\.(npz|h5)|misfit\.csv"
    r"|[A-Za-z0-9_]+_files/\d+/\d+_\d+\.png)|summary\.png)"
    r"|recon_log/(events\.csv|scales\.json|gallery\.html|tiles\.html|evolution\.gif)"
    r"|cards/(epoch_\d+|reference)/[A-Za-z0-9_]+\.step_\d+(\.time_\d+)?\.png|metrics/epoch_\d+\.json|description/run\.json"
)
_EPOCH = re.compile(r"(?:^|/)epoch_(\d+)[/.]")
_REFERENCE_CARDS = "cards/reference/"
_REFERENCE_ATTEMPTS = 4
"""Number of attempts to render the reference pictures; fewer than the deaths after which no worker is started."""
_RAW_NAME = "{:08d}_epoch_{}.snapshot"
_RAW = re.compile(r"\d{8}_epoch_(\d+)\.snapshot")
_DAMAGED = ".damaged"

Version = tuple[int, int, int]
"""Inode, modification time and size: distinguishes a file from a later one of the same name."""


class Outbox(RunFolder):
    """Snapshots, artifacts and history of one run. See `RunFolder` for arguments and errors."""

    _last_folder = ""
    """Folder of the last artifact, known to exist and to be private."""

    def describe(self, target: RunTarget, scan: Scan) -> None:
        """Write run.json and scan.npz for a later `sync`."""
        write_whole(self._place / "run.json", [dump_target(target)])
        write_whole(self._place / "scan.npz", [dump_scan(scan)])
        if scan.reference:
            write_whole(self._place / "reference", [b""])

    def target_and_owner(self) -> tuple[RunTarget, bool]:
        """Return the spool's run, and whether a training run of this user wrote run.json (`trust.is_own`).

        Raises:
            SpoolError: The spool contains links, has another version, or names no run.
        """
        for place in walk(self._place):
            with contextlib.suppress(FileNotFoundError):  # uploaded meanwhile
                mode = place.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    named = self.folder / place.relative_to(self._place)
                    raise SpoolError(f"{named} is a link or a device; a spool holds files and folders. Remove it.")
        return read_target(self._place / "run.json", self.folder)

    def scan(self) -> Scan:
        """Return the data common to all snapshots of the run.

        Raises:
            SpoolError: scan.npz cannot be read.
        """
        try:
            return load_scan((self._place / "scan.npz").read_bytes())
        except (OSError, CodecError) as error:
            raise SpoolError(f"{self.folder}/scan.npz cannot be read: {error}") from error

    # --- artifacts: rendered, waiting for their upload -------------------------------------------------------------

    def put(self, artifact: Artifact, taken_unix_s: float | None = None) -> None:
        """Store an artifact until it is uploaded; replaces one of the same name, but not a newer description.

        Args:
            artifact: The artifact.
            taken_unix_s: Time at which its snapshot was taken, kept as the file's modification time; None: now.
        """
        if not is_artifact_name(artifact.path):
            raise ValueError(f"{artifact.path!r} is not an artifact name of this program.")
        folder, place = artifact.path.rpartition("/")[0], self.local_path(artifact.path)
        with self._folders_change:
            if artifact.path == DESCRIPTION_NAME and self._is_newer(artifact.path, taken_unix_s):
                return  # this snapshot was rendered late
            if folder != self._last_folder or not place.parent.is_dir():
                self._make_folders("outbox", *(f"outbox/{one}" for one in reversed(Path(artifact.path).parents[:-1])))
                self._last_folder = folder
            write_whole(self.local_path(artifact.path), [artifact.data], taken_unix_s)

    def _is_newer(self, name: str, taken_unix_s: float | None) -> bool:
        version = self.version(name)
        return version is not None and taken_unix_s is not None and version[1] > taken_unix_s * 1e9

    def artifacts(self) -> Iterator[str]:
        """Return the names of the waiting artifacts, oldest epoch first, those of the whole run last."""
        root = self._place / "outbox"
        found = (str(p.relative_to(root)) for p in walk(root) if p.is_file() and not p.is_symlink())
        return iter(sorted(filter(is_artifact_name, found), key=lambda name: (epoch_of(name), name)))

    def local_path(self, name: str) -> Path:
        """Return the path to open for a waiting artifact."""
        return Path(f"{self._place}/outbox/{name}")

    def version(self, name: str) -> Version | None:
        """Return the version of the file of an artifact; None if it does not exist."""
        try:
            return version_of(self.local_path(name))
        except FileNotFoundError:
            return None

    def remove(self, name: str, uploaded: Version) -> None:
        """Remove an uploaded artifact and the folders that become empty, unless a newer file has replaced it."""
        place = self.local_path(name)
        with self._folders_change:
            if self.version(name) != uploaded:
                return
            place.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                for folder in place.parents[: len(Path(name).parents) - 1]:
                    with os.scandir(folder) as entries:
                        if next(entries, None) is not None:  # much faster than an attempt to remove the folder
                            break
                    folder.rmdir()

    # --- reference -------------------------------------------------------------------------------------------------

    @property
    def awaits_reference(self) -> bool:
        """Whether the reference pictures are still to be made."""
        return (self._place / "reference").is_file()

    def begin_reference(self) -> bool:
        """Return whether to make the reference pictures now. Call `end_reference` once they are in the outbox."""
        try:
            attempts = (self._place / "reference").stat().st_size
            write_whole(self._place / "reference", [b"." * (attempts + 1)])
        except OSError:  # there are none to make, or the disk is full
            return False
        if attempts >= _REFERENCE_ATTEMPTS:
            self.end_reference()
            _log.warning("The reference pictures are not made: %d processes died while rendering them.", attempts)
        return attempts < _REFERENCE_ATTEMPTS

    def end_reference(self) -> None:
        """Record that the reference pictures are made, or cannot be made."""
        with contextlib.suppress(OSError):
            (self._place / "reference").unlink()

    # --- history ---------------------------------------------------------------------------------------------------

    def keep_history(self, files: Mapping[str, bytes]) -> None:
        """Store the files of `History.files` for the pictures of later epochs."""
        self._make_folders("history")
        for name, content in files.items():
            write_whole(self._place / "history" / name, [content])

    def history(self) -> dict[str, bytes]:
        """Return the files stored by `keep_history`; empty if there are none."""
        places = {name: self._place / "history" / name for name in HISTORY_FILES}
        return {name: place.read_bytes() for name, place in places.items() if place.is_file()}

    # --- snapshots: waiting to be rendered -------------------------------------------------------------------------

    def put_raw(self, generation: int, epoch: int, parts: Sequence[bytes | memoryview]) -> Path:
        """Store a snapshot (`codec.dump_snapshot`) until it is rendered. Returns the path of its file."""
        raw = self.folder / "raw" / _RAW_NAME.format(generation, epoch)
        write_whole(self.held(raw), parts)
        return raw

    def capture_file(self, slot: int | None) -> Path:
        """Return the path of a queue slot's file before publication; None: the file for captures without a slot."""
        return temporary_path(self.folder / "raw" / ("capture" if slot is None else f"capture_{slot}"))

    def publish_raw(self, file: "RawFile", generation: int, epoch: int, header: bytes) -> Path:
        """Turn a file with complete arrays into a waiting snapshot; `header` is from `codec.snapshot_header`."""
        raw = self.folder / "raw" / _RAW_NAME.format(generation, epoch)
        file.header[:] = dump_snapshot(header, file.memory)[0]
        file.path.rename(self.held(raw))
        return raw

    def free_raw(self, raw: Path, slot: int | None) -> None:
        """Release a snapshot file: return it to its queue slot, or remove it if it has none."""
        with contextlib.suppress(FileNotFoundError):
            if slot is None:
                self.held(raw).unlink()
            else:
                self.held(raw).rename(self.held(self.capture_file(slot)))

    def raw(self) -> list[Path]:
        """Return the snapshot files to render, oldest first."""
        found = (self._place / "raw").glob("*.snapshot")
        names = sorted(p.name for p in found if _RAW.fullmatch(p.name) and p.is_file() and not p.is_symlink())
        return [self.folder / "raw" / name for name in names]

    def raw_generations(self) -> dict[int, Path]:
        """Return the waiting snapshot files by generation."""
        return {int(path.name.split("_")[0]): path for path in self.raw()}

    def epochs(self) -> set[int]:
        """Return the epochs of waiting snapshots and artifacts."""
        names = (name for name in self.artifacts() if not is_reference(name))
        rendered = {int(epoch) for name in names if (epoch := epoch_of(name)) < math.inf}
        return rendered | {int(match[1]) for raw in self.raw() if (match := _RAW.fullmatch(raw.name))}

    def mark_damaged(self, raw: Path) -> Path:
        """Rename a snapshot file that cannot be rendered, so that it is not retried. Returns its new path."""
        kept = raw.with_name(raw.name + _DAMAGED)
        self.held(raw).rename(self.held(kept))
        return kept

    def damaged(self) -> list[Path]:
        """Return the snapshot files marked as damaged."""
        found = (self._place / "raw").glob(f"*{_DAMAGED}")
        return sorted(self.folder / "raw" / place.name for place in found)

    def take_back_damaged(self) -> None:
        """Requeue the files marked as damaged, unless a waiting snapshot has the same name."""
        for one in self.damaged():
            place = self.held(one.with_name(one.name.removesuffix(_DAMAGED)))
            if not place.exists():
                self.held(one).rename(place)


def version_of(file: Path) -> Version:
    """Return the version of a file."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def is_artifact_name(path: str) -> bool:
    """Return whether a path is an artifact name of this program. Other files are never written, uploaded or removed."""
    return _ARTIFACT.fullmatch(path) is not None


def is_reference(name: str) -> bool:
    """Return whether an artifact is a reference card, which belongs to no epoch."""
    return name.startswith(_REFERENCE_CARDS)


def epoch_of(name: str) -> float:
    """Return the epoch of an artifact: 0 for a reference card, infinity for artifacts that every epoch replaces."""
    if is_reference(name):
        return 0
    found = _EPOCH.search(name)
    return int(found[1]) if found else math.inf


def total_bytes(files: Iterable[Path]) -> int:
    """Return the total size of files; files that vanish meanwhile count as empty."""
    total = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total
