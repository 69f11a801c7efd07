"""Files that are damaged or hold pickles: refused with a message, never unpickled."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from ptycho_torch.data.archive import save_npz
from ptycho_torch.data.npz import DataError, load_raw_scan
from tests.ptycho_torch.datasets import M


def _rewrite_member(path, name, content):
    """Replace the bytes of one member."""
    with zipfile.ZipFile(path) as source:
        members = {i: source.read(i) for i in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for member, old in members.items():
            target.writestr(member, content if member == name else old)


def _member(header, payload=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + payload


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 starts like one"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "scan.npz"
    path.write_bytes(content)

    with pytest.raises(DataError, match="not an NPZ file"):
        load_raw_scan(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*absent\.npz"):
        load_raw_scan(tmp_path / "absent.npz")


def test_a_truncated_file_is_refused(raw, write):
    path = write(raw)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError, match="cut short"):
        load_raw_scan(path)


def test_a_flipped_byte_is_noticed(raw, write):
    path = write(raw)
    content = bytearray(path.read_bytes())
    content[content.find(b"diff3d") + 400] ^= 1
    path.write_bytes(content)

    with pytest.raises(DataError, match="'diff3d': cannot be read"):
        load_raw_scan(path)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 31, 1 << 31, 1 << 31), (-1,), (3,)])
def test_a_header_that_promises_another_size_allocates_nothing(raw, write, shape):
    path = write(raw)
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    _rewrite_member(path, "xcoords.npy", _member(header, bytes(8 * M)))

    with pytest.raises(DataError, match="'xcoords'"):
        load_raw_scan(path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00" + bytes(60), b"garbage" * 9])
def test_a_member_that_is_no_array_is_refused(raw, write, content):
    path = write(raw)
    _rewrite_member(path, "ycoords.npy", content)

    with pytest.raises(DataError, match="'ycoords'"):
        load_raw_scan(path)


def _object_array(value):
    buffer = io.BytesIO()
    np.save(buffer, np.array(value, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_pickled_arrays_are_never_read(raw, write):
    path = write(raw)
    _rewrite_member(path, "ycoords.npy", _object_array([1.0] * M))

    with pytest.raises(DataError, match="pickled Python objects"):
        load_raw_scan(path, allow_pickled_metadata=True)


def test_pickled_metadata_is_read_only_on_request(raw, write):
    path = write({**raw, "_metadata": np.array("{}")})
    _rewrite_member(path, "_metadata.npy", _object_array('{"physics_parameters": {"nphotons": 7}}'))

    with pytest.raises(DataError, match="--allow_pickled_metadata"):
        load_raw_scan(path)
    assert load_raw_scan(path, allow_pickled_metadata=True).metadata.nphotons == 7


class _Malicious:
    def __init__(self, trace):
        self._trace = trace

    def __reduce__(self):
        return (open, (str(self._trace), "w"))


def test_pickled_metadata_cannot_run_code(raw, write, tmp_path):
    path, trace = write({**raw, "_metadata": np.array("{}")}), tmp_path / "executed"
    _rewrite_member(path, "_metadata.npy", _object_array(_Malicious(trace)))

    with pytest.raises(DataError, match="it refers to"):
        load_raw_scan(path, allow_pickled_metadata=True)
    assert not trace.exists()


@pytest.mark.parametrize("value", [pickle.dumps("bare text"), b"", b"\x80\x04.", pickle.dumps({"a": 1})])
def test_pickled_metadata_that_is_no_text_array_is_refused(raw, write, value):
    path = write({**raw, "_metadata": np.array("{}")})
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    _rewrite_member(path, "_metadata.npy", _member(header, value))

    with pytest.raises(DataError, match="text"):
        load_raw_scan(path, allow_pickled_metadata=True)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "scan.npz"
    save_npz(path, {"a": np.ones(3)})
    before = path.read_bytes()

    with pytest.raises(ValueError, match="Object arrays"):
        save_npz(path, {"a": np.zeros(3), "b": np.array([None])})

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
