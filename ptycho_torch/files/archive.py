"""Reads and writes NPZ files. Input is untrusted, and checked before it is read.

The header of each member is compared with the member's size, so that a forged header cannot cause a larger allocation.
Nothing is unpickled except, on request, a string in a 0-d object array (`Archive.read_text`).
"""

import io
import math
import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MAX_DEFLATE_RATIO = 1032
_SLACK_BYTES = 1024
_MAX_PICKLED_TEXT_BYTES = 1 << 24
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


class DataError(ValueError):
    """Invalid data file. The message states what was found, what is allowed and the remedy."""


class Archive:
    """An open NPZ file; use `open_archive`."""

    def __init__(self, path: Path, zip_file: zipfile.ZipFile) -> None:
        self.path = path
        self._zip = zip_file
        self._members = {i.filename.removesuffix(".npy"): i for i in zip_file.infolist()}

    @property
    def keys(self) -> frozenset[str]:
        """Names of the arrays."""
        return frozenset(self._members)

    def error(self, key: str, message: str) -> DataError:
        """Create a DataError that names the file and the key."""
        return DataError(f"{self.path.name}: key {key!r}: {message}")

    def read(self, key: str) -> NDArray[Any]:
        """Read the array of a key.

        Raises:
            DataError: The array is missing, damaged or pickled, or its header contradicts the size of the member.
        """
        with self._open(key) as member:
            shape, dtype = self._header(key, member)
            if dtype.hasobject:
                raise self.error(key, "holds pickled Python objects, which are never read. Save a plain array instead.")
            expected = math.prod(shape) * dtype.itemsize
            found = self._members[key].file_size - member.tell()
            if expected != found:
                raise self.error(
                    key, f"the header announces {expected} bytes, but {found} follow: damaged file. Copy it again."
                )
        with self._open(key) as member:
            array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            member.read(1)  # zipfile verifies the checksum only at the end of the member
            return array

    def read_text(self, key: str, *, allow_pickled: bool) -> str:
        """Read a string stored as a 0-d array; if `allow_pickled`, also as a 0-d object array of one pickled `str`."""
        with self._open(key) as member:
            shape, dtype = self._header(key, member)
            if shape == () and dtype.hasobject:
                return self._pickled_text(key, member, allow_pickled)
        array = self.read(key)
        if array.shape != () or array.dtype.kind not in "US":
            raise self.error(
                key, f"has shape {array.shape} and type {array.dtype}; it must be a 0-d string. Save it again."
            )
        value = array.item()
        return value if isinstance(value, str) else value.decode(errors="replace")

    def _pickled_text(self, key: str, member: IO[bytes], allowed: bool) -> str:
        if not allowed:
            raise self.error(
                key,
                "is a pickled string, which is not read by default. Pass --allow_pickled_metadata, which unpickles "
                "this string and nothing else, or save it as a plain string.",
            )
        try:
            value = _TextUnpickler(io.BytesIO(member.read(_MAX_PICKLED_TEXT_BYTES))).load()
        except Exception as error:  # a malformed pickle can raise any exception
            raise self.error(key, f"cannot be unpickled as a string ({error}). Save it as a plain string.") from error
        if not isinstance(value, _Cell) or not isinstance(value.value, str):
            raise self.error(key, "the pickled object is not a string. Save a plain string.")
        return value.value

    @contextmanager
    def _open(self, key: str) -> Iterator[IO[bytes]]:
        if key not in self._members:
            raise self.error(key, f"is missing; the file has {', '.join(sorted(self.keys)) or 'no arrays'}.")
        info = self._members[key]
        try:
            if info.file_size > _MAX_DEFLATE_RATIO * info.compress_size + _SLACK_BYTES:
                raise ValueError(f"{info.compress_size} stored bytes cannot hold {info.file_size}")
            with self._zip.open(info) as member:
                yield member
        except DataError:
            raise
        except (*_BROKEN, MemoryError) as error:
            raise self.error(key, f"cannot be read ({error or type(error).__name__}). Copy it again.") from error

    def _header(self, key: str, member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(member)
        if version not in _HEADER_READERS:
            raise self.error(key, f"has format version {version}; allowed: (1, 0), (2, 0). Save it as a plain array.")
        shape, _, dtype = _HEADER_READERS[version](member)
        return shape, dtype


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an NPZ file for reading.

    Raises:
        DataError: The file does not exist, or is not a complete NPZ file.
    """
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}. Give the path of an existing NPZ file.")
    try:
        zip_file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path.name}: not an NPZ file, or truncated ({error}; {path.stat().st_size} bytes). "
            "Copy it again, or write it with numpy.savez."
        ) from error
    with zip_file:
        yield Archive(path, zip_file)


def save_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an NPZ file atomically: temporary file, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, arrays)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    with zipfile.ZipFile(file, "w") as zip_file:
        for key, array in arrays.items():
            with zip_file.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


class _Cell:
    """Stand-in for a NumPy array while unpickling: keeps only the single element."""

    value: object = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, (), _, _, [value]):
                self.value = value


class _TextUnpickler(pickle.Unpickler):
    """Resolves only the three names used by a pickled 0-d object array, all to `_Cell`."""

    def find_class(self, module: str, name: str) -> type[_Cell]:
        """Reject every other name before it is imported."""
        if (module.split(".")[0], name) not in {("numpy", n) for n in ("_reconstruct", "ndarray", "dtype")}:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _Cell
