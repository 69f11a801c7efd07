"""A run's folder in the spool, held open by a descriptor, with its lock; and the list of a spool's runs.

Files appear by rename, so an existing file is complete. All files are readable by the owner only. The content of a
spool is not trusted: links are never followed.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from recon_worker.spool.lock import is_alone, take_lock
from recon_worker.system.errors import is_shortage
from recon_worker.system.folder_owner import why_not_ours

_PREFIX = ".recon-log-"
_TEMPORARY = re.compile(rf"{re.escape(_PREFIX)}.+\.\d+")
"""Name of an incomplete file, with the ID of its writing process; nothing else is swept."""
_DISPENSABLE = re.compile(r"run\.json|scan\.npz|lock|reference")
"""Files not worth keeping once no data is waiting, like the folder `history`."""
_PARTS = {"lock", "run.json", "outbox", "raw"}
"""Entries that identify a run's folder, which has some of them from its creation."""
_RUN_PARTS = ("run.json", "raw", "outbox")
_HAS_DESCRIPTOR_PATHS = Path("/proc/self/fd").is_dir()


class SpoolError(ValueError):
    """A spool directory cannot be used. The message gives the reason and a remedy."""


class RunFolder:
    """A run's folder. Held open by a descriptor, so nothing is written to a folder that takes its name later.

    Args:
        folder: `<spool>/<run id>`.
        create: Create the folder if it does not exist, and make it private; otherwise change nothing. An existing
            `<spool>` is never changed, as it may have other uses too.
        descriptor: Descriptor of the folder, opened by another process; this object closes it.

    Raises:
        FileNotFoundError: The folder does not exist, or another process has removed it.
        SpoolError: The folder is a link, or another user owns it.
        OSError: The folder cannot be created or opened.
    """

    def __init__(self, folder: Path, *, create: bool = True, descriptor: int | None = None) -> None:
        self.folder = folder
        """Path of the folder as it was opened, for messages."""
        self.descriptor = -1 if descriptor is None else descriptor
        """Descriptor of the folder; -1 once it is closed."""
        self.lock = -1
        """Descriptor of the lock; -1 while this object does not hold it."""
        self._folders_change = threading.Lock()
        if create:
            self._make_folders("outbox", "raw")
        elif descriptor is None:
            self._open()

    def take_lock(self, *, shared: bool = False) -> None:
        """Lock the folder until `unlock` or `close`; see `lock.take_lock`."""
        self.lock = take_lock(self.folder, shared=shared, held=self._place)

    def unlock(self) -> None:
        """Release the lock, if this object holds it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def close(self) -> None:
        """Release the lock and close the descriptor. The object must not be used afterwards."""
        self.unlock()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    __del__ = close

    @property
    def _place(self) -> Path:
        """Path of the folder through its descriptor, where the system supports this."""
        return Path(f"/proc/self/fd/{self.descriptor}") if _HAS_DESCRIPTOR_PATHS else self.folder

    def _open(self) -> None:
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.folder} is not a spool: it does not exist.") from error
        except NotADirectoryError as error:
            raise SpoolError(f"{self.folder} is a link or not a folder; a spool holds files and folders.") from error
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = descriptor
        if refusal := why_not_ours(self._place):
            raise SpoolError(f"{self.folder} cannot be used: {refusal}. Choose another spool directory.")

    def _make_folders(self, *names: str) -> None:
        """Create folders of the run, and the run's own folder if it is missing or was removed."""
        if self.descriptor < 0 or not os.fstat(self.descriptor).st_nlink:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # not a folder: `_open` says so
                self.folder.mkdir(mode=0o700, exist_ok=True)
            self._open()
            found = {place.name for place in self._place.iterdir()}
            if found and not found & _PARTS:  # a run's artifacts may be stored under its ID too
                some = ", ".join(sorted(found)[:3])
                raise SpoolError(
                    f"{self.folder} is not the folder of a run in a spool: it holds {some}. Choose another directory."
                )
        _make_private(self.descriptor)
        for name in names:
            _make_private(self._place / name)

    def held(self, place: Path) -> Path:
        """Translate a path below `folder` into one through the descriptor, for opening, changing or removing it."""
        return self._place / place.relative_to(self.folder)

    def take_scratch(self) -> None:
        """Make `tempfile` write into the spool, so that a killed process leaves no files elsewhere."""
        folder = temporary_path(self._place / "scratch")
        with contextlib.suppress(OSError):  # on a full disk the system's default folder remains in use
            _make_private(folder)
            tempfile.tempdir = str(folder)

    def sweep(self) -> None:
        """Remove all incomplete files and scratch folders. The caller must hold the spool's lock exclusively."""
        for place in walk(self._place):
            if _TEMPORARY.fullmatch(place.name):
                _remove(place)

    @property
    def is_empty(self) -> bool:
        """Whether the folder contains nothing worth keeping."""
        files = (place.relative_to(self._place) for place in walk(self._place) if not place.is_dir())
        return all(
            file.parts[0] == "history"
            or _DISPENSABLE.fullmatch(file.name)
            or _TEMPORARY.fullmatch(file.name)
            or _TEMPORARY.fullmatch(file.parts[0])
            for file in files
        )

    def discard(self) -> None:
        """Remove the folder if it is empty, atomically for processes that open it meanwhile."""
        if not self._is_called(self.folder) or not self.is_empty:
            return
        name, doomed = self.folder.name, temporary_path(self.folder).name
        parent = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not self._is_called(name, parent):
                return
            os.rename(name, doomed, src_dir_fd=parent, dst_dir_fd=parent)
            for place in self._place.iterdir():
                _remove(place)
            os.rmdir(doomed, dir_fd=parent)
        finally:
            os.close(parent)

    def discard_if_alone(self) -> None:
        """Remove incomplete files, and the folder if it is then empty, unless another process shares the lock."""
        if is_alone(self.lock):
            self.sweep()
            self.discard()

    @property
    def place_now(self) -> Path:
        """Current path of the folder, which may have been renamed; `folder` where the system cannot report it."""
        return self.folder if self._is_called(self.folder) or self._place == self.folder else self._place.readlink()

    def _is_called(self, name: str | Path, parent: int | None = None) -> bool:
        """Return whether a name still refers to this folder."""
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(self.descriptor))
        return False


def _remove(place: Path) -> None:
    """Remove a file, a link itself, or a folder with its content."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def check_spool(directory: Path) -> None:
    """Check that folders can be created in a spool directory or, if it does not exist, where it would be created.

    Raises:
        SpoolError: They cannot, and the cause is not a shortage that may pass, such as a full or read-only disk.
    """
    try:
        existing = next(one for one in (directory, *directory.parents) if one.exists())
        Path(tempfile.mkdtemp(prefix=_PREFIX, dir=existing)).rmdir()
    except OSError as error:
        if is_shortage(error):
            return
        raise SpoolError(
            f"spool_dir {directory} cannot be used ({error.strerror}); allowed: a folder in which this user can create "
            "folders, or a path at which one can be created. Choose another one, or correct its permissions."
        ) from error


def run_folders(directory: Path) -> list[Path]:
    """Return the run folders of a spool directory; for a run's folder, the folder itself.

    Empty for a missing folder whose parent is a spool, possibly an empty one: everything was uploaded.

    Raises:
        SpoolError: The directory does not exist, or is not a spool.
    """
    directory = directory.resolve()
    if any((directory / name).exists() for name in _RUN_PARTS):
        return [directory]
    exists = directory.is_dir()
    spool = directory if exists else directory.parent
    refusal = f"{directory} is not a spool: neither it nor a folder in it holds a run.json."
    if not exists:
        refusal = f"{directory} does not exist, and its parent is not a spool: check the path."
        if not spool.is_dir():
            raise SpoolError(refusal)
    entries: list[Path] = []
    with contextlib.suppress(FileNotFoundError):  # emptied meanwhile
        entries = [place for place in sorted(spool.iterdir()) if not place.name.startswith(".")]
    folders = [place for place in entries if any((place / name).exists() for name in _RUN_PARTS)]
    if entries and not folders:
        raise SpoolError(refusal)
    return folders if exists else []


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files, folders and links below a folder. Links are not followed; folders may vanish meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        for place in folder.iterdir():
            yield place
            if place.is_dir() and not place.is_symlink():
                yield from walk(place)


def temporary_path(place: Path) -> Path:
    """Return the temporary path of a file while this process writes it."""
    return place.with_name(f"{_PREFIX}{place.name}.{os.getpid()}")


def write_whole(place: Path, parts: Sequence[bytes | memoryview], time_s: float | None = None) -> None:
    """Write a file under a temporary name, then rename it, so that its own name only ever refers to a complete file.

    `time_s` is its modification time in Unix seconds; None: now.
    """
    temporary = temporary_path(place)
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


def _make_private(folder: Path | int) -> None:
    """Restrict access to a folder, given by path or descriptor, to its owner. Creates a missing path."""
    if isinstance(folder, Path):
        folder.mkdir(mode=0o700, exist_ok=True)
        mode = folder.lstat().st_mode  # the target of a link is not changed
    else:
        mode = os.fstat(folder).st_mode
    if stat.S_ISDIR(mode) and mode & 0o777 != 0o700:  # mkdir obeys the umask
        with contextlib.suppress(OSError):  # another user's folder, or a file system that is read-only or has no modes
            os.chmod(folder, stat.S_IMODE(mode) & ~0o777 | 0o700)  # noqa: PTH101 - may be a descriptor
