"""Serialises `Scan` and `Snapshot` for shared memory and for the spool, without pickle.

A scan is an NPZ archive: its arrays by name, and `_record`, a JSON text of all other fields. A snapshot is

    magic (8 bytes) | header length (uint32) | checksum of header and arrays (uint32) | header, JSON | arrays

with the arrays at the offsets of `SnapshotLayout` from byte 4096 on; the header is padded with spaces. The checksum is
the CRC-32 of the header and of block sums of the arrays, much faster than a CRC-32 of the arrays themselves. Truncated
and corrupt data is rejected.
"""

import io
import json
import mmap
import os
import struct
import zlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot.geometry import Geometry, GridGeometry, PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotLayout

FILE_HEADER_BYTES = 4096
"""Offset of the arrays in a snapshot file."""
_MAGIC = b"RECSNAP2"
_PREFIX = struct.Struct("<8sII")
_LENGTH = struct.Struct("<I")
_SCAN_VERSION = 1
_GEOMETRIES: dict[str, type[GridGeometry] | type[PositionGeometry]] = {
    "grid": GridGeometry,
    "positions": PositionGeometry,
}
_LARGEST_SIDE = 1 << 32
_WORD_BYTES, _BLOCK_WORDS = 8, 8192
_RECORD_FIELDS = ("epoch", "step", "has_diffraction", "created_unix_s", "stall_s")


class CodecError(ValueError):
    """The data is truncated, corrupt, or from an incompatible version."""


def dump_scan(scan: Scan) -> memoryview:
    """Serialise a scan as NPZ."""
    record, arrays = _split(scan, "", skip=("geometry", "ground_truth"))
    record["version"] = _SCAN_VERSION
    record["ground_truth"] = [truth is not None for truth in scan.ground_truth]
    arrays |= {f"ground_truth.{i}": t for i, t in enumerate(scan.ground_truth) if t is not None}
    if scan.geometry is not None:
        kind = next(name for name, cls in _GEOMETRIES.items() if isinstance(scan.geometry, cls))
        values, more = _split(scan.geometry, "geometry.")
        record["geometry"] = {"kind": kind, **values}
        arrays |= more
    stream = io.BytesIO()
    np.savez(stream, _record=np.array(json.dumps(record)), **arrays)  # type: ignore[arg-type]
    return stream.getbuffer()


def load_scan(data: bytes | memoryview) -> Scan:
    """Deserialise a scan written by `dump_scan`.

    Raises:
        CodecError: The bytes are not a scan of this version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        record = json.loads(str(arrays.pop("_record")))
        if record.pop("version") != _SCAN_VERSION:
            raise CodecError("the scan was written by an incompatible version of this program.")
        truths = tuple(arrays.get(f"ground_truth.{i}") for i in range(len(record.pop("ground_truth"))))
        geometry: Geometry | None = None
        if (of_geometry := record.pop("geometry", None)) is not None:
            cls = _GEOMETRIES[of_geometry.pop("kind")]
            names = [f.name for f in fields(cls) if f"geometry.{f.name}" in arrays]
            geometry = cls(**of_geometry, **{name: arrays[f"geometry.{name}"] for name in names})
        own = {f.name: arrays[f.name] for f in fields(Scan) if f.name in arrays}
        record["fixed_indices"] = tuple(record["fixed_indices"])
        return Scan(**record, **own, geometry=geometry, ground_truth=truths)
    except CodecError:
        raise
    except Exception as error:  # numpy, zipfile and json raise many types for a damaged archive
        raise CodecError(f"the scan cannot be read: {type(error).__name__}: {error}") from error


def dump_brief(record: dict[str, Any], scan: Scan) -> list[bytes | memoryview]:
    """Serialise the run's record and scan for the worker, as parts: JSON length, JSON, scan."""
    words = json.dumps(record).encode()
    return [_LENGTH.pack(len(words)), words, dump_scan(scan)]


def load_brief(data: bytes) -> tuple[dict[str, Any], Scan]:
    """Deserialise the record and scan written by `dump_brief`."""
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return json.loads(data[_LENGTH.size : end]), load_scan(memoryview(data)[end:])


def _split(value: Any, prefix: str, skip: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:  # noqa: ANN401
    """Split a dataclass into its plain fields, and its array fields under prefixed names."""
    plain: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, np.ndarray):
            arrays[prefix + field.name] = item
        elif field.name not in skip:
            plain[field.name] = item
    return plain, arrays


def snapshot_header(snapshot: Snapshot, layout: SnapshotLayout) -> bytes:
    """Serialise a snapshot's record and layout as JSON, without the arrays."""
    record = {name: getattr(snapshot, name) for name in _RECORD_FIELDS}
    return json.dumps({"record": record, "layout": asdict(layout)}).encode()


def parse_header(header: bytes) -> tuple[dict[str, Any], SnapshotLayout]:
    """Parse the output of `snapshot_header` into record and layout.

    Raises:
        CodecError: The header is invalid.
    """
    try:
        document = json.loads(header)
        record = {name: document["record"][name] for name in _RECORD_FIELDS}
        layout = {"with_misfit": 0} | document["layout"]  # earlier versions do not name it
        if not all(type(size) is int and 0 <= size <= _LARGEST_SIDE for size in layout.values()):
            raise CodecError(f"the snapshot's layout is invalid: {layout}.")
        return record, SnapshotLayout(**layout)
    except CodecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodecError(f"the snapshot's header cannot be read: {error}") from error


def dump_snapshot(header: bytes, arrays: memoryview) -> tuple[bytes, memoryview]:
    """Return the parts of a snapshot file in order: the first `FILE_HEADER_BYTES`, and the arrays without a copy.

    Args:
        header: Output of `snapshot_header`.
        arrays: Buffer mapped by `SnapshotLayout.views`.
    """
    padded = header.ljust(FILE_HEADER_BYTES - _PREFIX.size)
    if len(padded) + _PREFIX.size > FILE_HEADER_BYTES:
        raise ValueError(f"the header has {len(header)} bytes; {FILE_HEADER_BYTES - _PREFIX.size} fit.")
    return _PREFIX.pack(_MAGIC, len(padded), _checksum(padded, arrays)) + padded, arrays


def _checksum(header: bytes, arrays: memoryview) -> int:
    """Return the CRC-32 of the header, of 64-bit sums over blocks of 64 KiB, and of the remaining bytes."""
    words = np.frombuffer(arrays, np.uint64, len(arrays) // _WORD_BYTES)
    sums = np.add.reduceat(words, np.arange(0, words.size, _BLOCK_WORDS)) if words.size else words
    return zlib.crc32(arrays[words.nbytes :], zlib.crc32(sums.tobytes(), zlib.crc32(header)))


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot file. Its arrays are mapped read-only: the file must not change while they are in use.

    Raises:
        CodecError: The file is truncated, corrupt, or not a snapshot.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _PREFIX.size:
            raise CodecError(f"the snapshot ends after {size} bytes; it was not written completely.")
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    magic, length, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise CodecError(f"this is not a snapshot of this version: it begins with {magic!r}, not {_MAGIC!r}.")
    body = memoryview(data)[_PREFIX.size :]
    header, arrays = bytes(body[:length]), body[length:]
    if _checksum(header, arrays) != checksum:
        raise CodecError("the snapshot's checksum is wrong: the file is torn or corrupt.")
    record, layout = parse_header(header)
    if len(arrays) != layout.nbytes:
        raise CodecError(f"the snapshot holds {len(arrays)} bytes of arrays; its layout needs {layout.nbytes}.")
    return Snapshot(**record, arrays=layout.views(arrays))
