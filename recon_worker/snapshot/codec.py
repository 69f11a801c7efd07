"""`Scan` and `Snapshot` as bytes, for shared memory and for the spool. No pickle, in either direction.

A scan is an NPZ archive: its arrays by name, and `_record`, a JSON text with the rest. A snapshot is

    magic (8 bytes) | header length (uint32) | checksum of header and arrays (uint32) | header, JSON | arrays

with the arrays as `SnapshotLayout` places them, from byte 4096 on: the header ends in spaces. The checksum is the
CRC-32 of the header and of the sums of the arrays' blocks, which takes a fraction of the time of a CRC-32 of the
arrays. What is torn or corrupt is recognised and refused.
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
"""Where the arrays begin in a snapshot file."""
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
    """The bytes are not what this version writes: torn, corrupt, or of another version."""


def dump_scan(scan: Scan) -> memoryview:
    """NPZ bytes of a scan."""
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
    """The scan of `dump_scan`.

    Raises:
        CodecError: The bytes are not a scan of this version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        record = json.loads(str(arrays.pop("_record")))
        if record.pop("version") != _SCAN_VERSION:
            raise CodecError("the scan was written by another version of this program.")
        truths = tuple(arrays.get(f"ground_truth.{i}") for i in range(len(record.pop("ground_truth"))))
        geometry = _load_geometry(record.pop("geometry", None), arrays)
        own = {f.name: arrays[f.name] for f in fields(Scan) if f.name in arrays}
        record["fixed_indices"] = tuple(record["fixed_indices"])
        return Scan(**record, **own, geometry=geometry, ground_truth=truths)
    except CodecError:
        raise
    except Exception as error:  # whatever a damaged archive makes numpy, zipfile or json raise
        raise CodecError(f"the scan cannot be read: {type(error).__name__}: {error}") from error


def dump_brief(record: dict[str, Any], scan: Scan) -> list[bytes | memoryview]:
    """What a worker must know of a run, in parts: some words, JSON, and the scan."""
    words = json.dumps(record).encode()
    return [_LENGTH.pack(len(words)), words, dump_scan(scan)]


def load_brief(data: bytes) -> tuple[dict[str, Any], Scan]:
    """Record and scan of `dump_brief`."""
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return json.loads(data[_LENGTH.size : end]), load_scan(memoryview(data)[end:])


def _split(value: Any, prefix: str, skip: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:  # noqa: ANN401
    """The fields of a dataclass, plain values and arrays apart."""
    plain: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, np.ndarray):
            arrays[prefix + field.name] = item
        elif field.name not in skip:
            plain[field.name] = item
    return plain, arrays


def _load_geometry(record: dict[str, Any] | None, arrays: dict[str, NDArray[Any]]) -> Geometry | None:
    if record is None:
        return None
    cls = _GEOMETRIES[record.pop("kind")]
    names = [f.name for f in fields(cls) if f"geometry.{f.name}" in arrays]
    record |= {name: arrays[f"geometry.{name}"] for name in names}
    return cls(**record)


def snapshot_header(snapshot: Snapshot, layout: SnapshotLayout) -> bytes:
    """JSON of a snapshot's record and layout; the arrays travel apart."""
    record = {name: getattr(snapshot, name) for name in _RECORD_FIELDS}
    return json.dumps({"record": record, "layout": asdict(layout)}).encode()


def parse_header(header: bytes) -> tuple[dict[str, Any], SnapshotLayout]:
    """Record and layout of `snapshot_header`."""
    try:
        document = json.loads(header)
        record = {name: document["record"][name] for name in _RECORD_FIELDS}
        sizes = document["layout"].values()
        if not all(type(size) is int and 0 <= size <= _LARGEST_SIDE for size in sizes):
            raise CodecError(f"the snapshot's layout is not one: {document['layout']}.")
        return record, SnapshotLayout(**document["layout"])
    except CodecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodecError(f"the snapshot's header cannot be read: {error}") from error


def dump_snapshot(header: bytes, arrays: memoryview) -> list[bytes | memoryview]:
    """The parts of a snapshot file, to be written one after the other; the arrays are not copied."""
    return [file_header(header, arrays), arrays]


def file_header(header: bytes, arrays: memoryview) -> bytes:
    """What a snapshot file begins with, `FILE_HEADER_BYTES` long; `header`: of `snapshot_header`."""
    padded = header.ljust(FILE_HEADER_BYTES - _PREFIX.size)
    if len(padded) + _PREFIX.size > FILE_HEADER_BYTES:
        raise ValueError(f"the header has {len(header)} bytes; {FILE_HEADER_BYTES - _PREFIX.size} fit.")
    return _PREFIX.pack(_MAGIC, len(padded), _checksum(padded, arrays)) + padded


def _checksum(header: bytes, arrays: memoryview) -> int:
    """See the module: sums modulo 2^64 of 64-bit words, in blocks of 64 KiB."""
    words = np.frombuffer(arrays, np.uint64, len(arrays) // _WORD_BYTES)
    sums = np.add.reduceat(words, np.arange(0, words.size, _BLOCK_WORDS)) if words.size else words
    return zlib.crc32(arrays[words.nbytes :], zlib.crc32(sums.tobytes(), zlib.crc32(header)))


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file, which must stay as it is while the arrays are in use: they are read when needed.

    Raises:
        CodecError: See `load_snapshot`.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return load_snapshot(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")


def load_snapshot(data: bytes | mmap.mmap) -> Snapshot:
    """The snapshot of a snapshot file; its arrays are read-only and share the memory of `data`.

    Raises:
        CodecError: The file is torn, corrupt, or not a snapshot.
    """
    if len(data) < _PREFIX.size:
        raise CodecError(f"the snapshot ends after {len(data)} bytes; it was not written to its end.")
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
