"""Scans and snapshots survive the round trip to the worker; damaged bytes are rejected."""

import dataclasses
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recon_worker.pictures.artifacts import finish, render
from recon_worker.pictures.history import History
from recon_worker.reconstruction.stitching import stitch
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.codec import CodecError, dump_scan, dump_snapshot, load_scan, read_snapshot, snapshot_header
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotLayout

VALUES = [0.0, 0.5, 1.0, -0.2, np.nan, np.inf, -np.inf, 1e30]


def _array(rng, shape, special):
    array = rng.uniform(0, 1, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.05, np.float32(special), array).astype(np.float32)


def _truth(rng, geometry, special, known):
    if not known:
        return None
    amp = _array(rng, (40, 40), special)
    whole = (amp * np.exp(1j * rng.uniform(-3, 3, amp.shape))).astype(np.complex64)
    shape = stitch(geometry, np.zeros((0, *_patch_shape(geometry)), np.complex64))[0].object.shape
    return np.resize(whole, shape)


def _patch_shape(geometry):
    positions = geometry.coords_relative_px if isinstance(geometry, GridGeometry) else geometry.positions_px
    return 1 if positions is None else positions.shape[1], geometry.crop_px, geometry.crop_px


@st.composite
def cases(draw):
    """A scan and a snapshot of it: any size, any labels, any geometry, special values, missing rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k, n_px, channels = draw(st.integers(0, 3)), draw(st.sampled_from([4, 8, 16])), draw(st.sampled_from([1, 4]))
    labels = draw(st.sampled_from(["none", "zero", "real"]))
    kind = draw(st.sampled_from(["none", "positions", "grid"]))
    special = draw(st.sampled_from(VALUES))
    geometry, n = None, 0
    if kind == "positions":
        n = draw(st.integers(1, 9))
        positions = rng.uniform(8, 30, (n, channels, 2))
        geometry = PositionGeometry(patch_px=n_px, crop_px=n_px // 2, positions_px=positions)
    elif kind == "grid":
        n, coords = 4, rng.integers(-1, 2, (4, channels, 2)).astype(float) if channels > 1 else None
        geometry = GridGeometry(
            patch_px=n_px, outer_offset_px=4, n_objects=1, n_samples=4, coords_relative_px=coords, amplitude_scale=2.0
        )
    label = {"none": None, "zero": np.zeros((k, n_px, n_px), np.float32)}.get(
        labels, _array(rng, (k, n_px, n_px), special)
    )
    scan = Scan(
        fixed_indices=tuple(range(k)),
        observed_diffraction=_array(rng, (k, n_px, n_px), special) if draw(st.booleans()) else None,
        label_amp=label,
        label_phase=label,
        geometry=geometry,
        ground_truth=(_truth(rng, geometry, special, draw(st.booleans())),) if geometry is not None else (),
        remove_ramp=draw(st.booleans()),
        pixel_size_m=draw(st.sampled_from([None, 2e-8])),
        arrays_format=draw(st.sampled_from(["none", "npz", "h5"])),
        description=draw(st.sampled_from([None, False, True])),
        reference=draw(st.booleans()),
    )
    layout = SnapshotLayout(
        n_fixed=k, patch_px=n_px, n_stitch=n, channels=channels, crop_px=geometry.crop_px if geometry else 0
    )
    buffer = bytearray(layout.nbytes)
    arrays = layout.views(buffer)
    for field in dataclasses.fields(arrays):
        array = getattr(arrays, field.name)
        array[...] = rng.random(array.shape) < 0.8 if array.dtype == bool else _array(rng, array.shape, special)
    np.abs(arrays.misfit, out=arrays.misfit)  # R-factors and deviances are never negative
    return scan, Snapshot(
        epoch=3, step=7, has_diffraction=draw(st.booleans()), created_unix_s=1.5, stall_s=0.25, arrays=arrays
    ), layout, buffer  # fmt: skip


def _crossed(scan, snapshot, layout, buffer):
    parts = dump_snapshot(snapshot_header(snapshot, layout), memoryview(buffer))
    return load_scan(dump_scan(scan)), _read(b"".join(parts))


def _read(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.snapshot")
        path.write_bytes(data)
        return read_snapshot(path)


@pytest.mark.usefixtures("plain_sheets")  # they differ if one bit of their content differs
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_pictures_are_the_same_bytes_on_both_sides(case):
    assert_same_pictures(case)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(cases())
def test_pictures_are_the_same_bytes_on_both_sides_in_many_cases(case):
    assert_same_pictures(case)


def assert_same_pictures(case):
    scan, snapshot, _, _ = case

    here, there = History(), History()
    first = [list(render(scan, snapshot, here)), list(finish(here))]
    there = History.of_files(there.files())
    second = [list(render(*_crossed(*case), there)), list(finish(there))]

    assert first == second
    assert all(isinstance(made, Artifact) for made in first[0])


def test_a_scan_of_an_earlier_version_lacks_the_reference_and_is_read():
    with np.load(io.BytesIO(dump_scan(Scan(fixed_indices=(4,), reference=True)))) as archive:
        arrays = dict(archive)
    record = json.loads(str(arrays.pop("_record")))
    assert record.pop("reference")
    stream = io.BytesIO()
    np.savez(stream, _record=np.array(json.dumps(record)), **arrays)

    earlier = load_scan(stream.getvalue())

    assert (earlier.fixed_indices, earlier.reference, earlier.observed_diffraction) == ((4,), False, None)


def test_a_scan_arrives_whole():
    geometry = PositionGeometry(
        patch_px=8, crop_px=4, positions_px=np.full((3, 1, 2), 9.5), object_index=np.array([0, 1, 1]), weight="probe",
        probe_intensity=np.ones((4, 4), np.float32), amplitude_scale=1.25,
    )  # fmt: skip
    scan = Scan(
        fixed_indices=(4, 2), observed_diffraction=np.ones((2, 8, 8), np.float32), geometry=geometry,
        ground_truth=(None, np.ones((4, 4), np.complex64)), epoch_digits=3,
    )  # fmt: skip

    arrived = load_scan(dump_scan(scan))

    assert (arrived.fixed_indices, arrived.epoch_digits, arrived.label_amp) == ((4, 2), 3, None)
    assert arrived.ground_truth[0] is None
    np.testing.assert_array_equal(arrived.ground_truth[1], scan.ground_truth[1])
    for field in dataclasses.fields(geometry):
        np.testing.assert_array_equal(getattr(arrived.geometry, field.name), getattr(geometry, field.name))


@pytest.fixture
def snapshot_bytes():
    layout = SnapshotLayout(n_fixed=1, patch_px=8, n_stitch=2, crop_px=4)
    buffer = bytearray(layout.nbytes)
    snapshot = Snapshot(
        epoch=1, step=1, has_diffraction=True, created_unix_s=0.0, stall_s=0.0, arrays=layout.views(buffer)
    )
    return b"".join(dump_snapshot(snapshot_header(snapshot, layout), memoryview(buffer)))


@pytest.mark.parametrize("length", [0, 5, 16, 100, -1])
def test_a_torn_snapshot_is_refused(snapshot_bytes, length):
    with pytest.raises(CodecError):
        _read(snapshot_bytes[:length])


@pytest.mark.parametrize("place", [0, 9, 13, 40, 200, -1])
def test_a_flipped_bit_anywhere_is_refused(snapshot_bytes, place):
    damaged = bytearray(snapshot_bytes)
    damaged[place] ^= 1

    with pytest.raises(CodecError):
        _read(bytes(damaged))


@pytest.mark.parametrize("layout", ['{"n_fixed": "a"}', '{"n_fixed": -1}', "[]", "{}", '{"n_fixed": 1e9}'])
def test_an_invalid_layout_is_refused_although_its_checksum_is_right(layout):
    record = '{"epoch": 1, "step": 1, "has_diffraction": true, "created_unix_s": 0, "stall_s": 0}'
    header = f'{{"record": {record}, "layout": {layout}}}'.encode()

    with pytest.raises(CodecError):
        _read(b"".join(dump_snapshot(header, memoryview(b""))))


def test_a_pickled_scan_is_refused():
    import io

    stream = io.BytesIO()
    np.savez(stream, _record=np.array({"version": 1}, dtype=object))

    with pytest.raises(CodecError, match="cannot be read"):
        load_scan(stream.getvalue())
