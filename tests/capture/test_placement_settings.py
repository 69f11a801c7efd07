"""Positions, objects and truth that the user passes win; if they are wrong, an error says so before the first step."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

from recon_worker.capture.errors import WrongSettingError
from tests.capture.known_scans import (
    TRUTH,
    Scan,
    assert_true_patches,
    global_offsets,
    place,
    stitched_correlations,
)
from tests.reconstruction.known_objects import smooth_object

OTHER = smooth_object(TRUTH.shape, seed=11)


def misleading(scan):
    """A container whose positions and truth are those of another scan."""
    other = Scan(len(scan), seed=8)
    scan.container = {"global_offsets": other.mean_px[:, None, :, None], "YY_full": OTHER}
    return scan


FORMS = {
    "(n, 2)": lambda scan: scan.positions[:, 0],
    "(n, C, 2)": lambda scan: scan.positions,
    "a tensor": lambda scan: torch.from_numpy(scan.positions),
    "a list": lambda scan: scan.positions[:, 0].tolist(),
    "a function": lambda scan: lambda dataset: dataset.positions,
}


@pytest.mark.parametrize("form", FORMS)
def test_explicit_positions_and_truth_win(form):
    scan = misleading(Scan())

    placement = place(scan, count=100, positions=FORMS[form](scan), ground_truth=TRUTH, item_position=lambda i: 1 / 0)

    assert stitched_correlations(placement, scan)[0] > 0.99
    assert_true_patches(placement, scan, [0, 119])


def test_explicit_positions_win_over_those_of_the_dataset_itself():
    scan = global_offsets(Scan())
    scan.scan_geometry = place(misleading(Scan())).geometry

    placement = place(scan, positions=scan.positions)

    assert stitched_correlations(placement, scan)[0] > 0.99


def test_explicit_truth_is_compared_at_the_positions_of_the_dataset_itself():
    scan = Scan()
    scan.scan_geometry = place(global_offsets(Scan())).geometry
    scan.ground_truth = (OTHER,)

    placement = place(scan, ground_truth=TRUTH)

    assert placement.geometry == scan.scan_geometry
    assert stitched_correlations(placement, scan)[0] > 0.99
    assert_true_patches(placement, scan, [0, 119])


def test_centres_of_groups_and_the_offsets_of_the_container_place_every_patch():
    scan = misleading(Scan(channels=4))
    scan.container["coords_relative"] = scan.relative

    placement = place(scan, channels=4, positions=scan.mean_px, ground_truth=TRUTH)

    assert stitched_correlations(placement, scan)[0] > 0.99


def test_a_wrong_sign_of_the_offsets_within_a_group_would_be_seen():
    scan = misleading(Scan(channels=4))
    scan.container["coords_relative"] = -scan.relative

    placement = place(scan, channels=4, positions=scan.mean_px, ground_truth=TRUTH)

    assert stitched_correlations(placement, scan)[0] < 0.9


@pytest.mark.parametrize("pack", [lambda a: a, lambda a: a[..., None], list, lambda a: torch.from_numpy(a)[None]])
def test_explicit_object_numbers_assign_truths(pack):
    scans = [Scan(60), Scan(60, seed=2, truth=OTHER)]
    dataset = ConcatDataset(scans)
    positions = np.concatenate([scan.positions for scan in scans])

    placement = place(
        dataset, positions=positions, object_index=[1] * 60 + [0] * 60, ground_truth=pack(np.stack([OTHER, TRUTH]))
    )

    assert min(stitched_correlations(placement, dataset)) > 0.99
    assert_true_patches(placement, dataset, [0, 59, 60, 119])


@pytest.mark.parametrize("key", ["YY_full", "objectGuess", "mine"])
def test_a_file_holds_the_truth_under_a_known_key_or_as_its_only_array(tmp_path, key):
    scan = Scan()
    np.savez(tmp_path / "truth.npz", **{key: TRUTH[..., None]})
    np.save(tmp_path / "truth.npy", TRUTH)

    for path in (tmp_path / "truth.npz", str(tmp_path / "truth.npy")):
        placement = place(scan, positions=scan.positions, ground_truth=path)
        assert stitched_correlations(placement, scan)[0] > 0.99


def test_the_factor_of_a_truth_is_used_if_it_can_be_one(tmp_path):
    scan = Scan()
    np.savez(tmp_path / "good.npz", objectGuess=TRUTH, norm_Y_I=0.75)
    np.savez(tmp_path / "photons.npz", objectGuess=TRUTH, norm_Y_I=988.0)

    good, photons = (
        place(scan, positions=scan.positions, ground_truth=tmp_path / f"{name}.npz") for name in ("good", "photons")
    )

    assert (good.geometry.amplitude_scale, photons.geometry.amplitude_scale) == (0.75, 1.0)
    np.testing.assert_allclose(0.75 * good.true_patch(0)[0], photons.true_patch(0)[0], rtol=1e-6)


def test_a_patch_that_reaches_unknown_pixels_or_beyond_the_truth_is_unknown():
    scan, truth = Scan(), TRUTH.copy()
    x, y = np.rint(scan.positions[0, 0]).astype(int)
    truth[y, x] = np.inf
    scan.positions[1] = [5, 60]

    placement = place(scan, positions=scan.positions, ground_truth=truth)

    assert placement.true_patch(0) is None
    assert placement.true_patch(1) is None
    assert np.isnan(placement.ground_truth[0]).any()


def _nan(scan):
    scan.positions[7, 0, 1] = np.nan
    return scan.positions


def _raises(dataset):
    raise KeyError("probe_pos")


POSITIONS = {
    "shape (120, 3) and type float64; allowed for 120 samples: (120, 2) or (120, C, 2)": lambda s: np.ones((120, 3)),
    "shape (2, 120)": lambda s: s.positions[:, 0].T,
    "shape (119, 1, 2)": lambda s: s.positions[:-1],
    "shape () and type int64": lambda s: 7,
    "type complex64": lambda s: np.ones((120, 2), np.complex64),
    "positions cannot be used (TypeError: numbers are expected, found a str": lambda s: "positions.npy",
    "positions, called with a Scan, raised KeyError: 'probe_pos'; allowed for 120 samples": lambda s: _raises,
    "positions of 1 of 120 samples are not finite (first: 7); allowed: pixels": _nan,
    "less than one pixel; allowed: patch centres in pixels": lambda s: s.positions * 1e-8,
    "If they are in metres, divide them by the pixel size": lambda s: s.positions * 1e-8,
    "patches of 32 px leave it by 14.7 px, but fit with x and y swapped": lambda s: s.positions[..., ::-1],
    "Swap them: positions[..., ::-1].": lambda s: s.positions[..., ::-1],
    "120 of 120 patches lie more than a patch outside, the first at (": lambda s: s.positions + 1000,
    "Check unit and origin": lambda s: s.positions * 50,
}


@pytest.mark.parametrize("said", POSITIONS)
def test_wrong_positions_raise(said):
    scan = Scan()

    with pytest.raises(WrongSettingError) as error:
        place(scan, positions=POSITIONS[said](scan), ground_truth=TRUTH)

    assert said in str(error.value)


def test_positions_that_need_too_large_a_canvas_raise():
    scan = Scan()

    with pytest.raises(WrongSettingError, match="positions cannot be used: the positions of object 0 span"):
        place(scan, positions=scan.positions * 1e4)


def test_a_wrong_number_of_patches_per_sample_raises():
    with pytest.raises(WrongSettingError, match=r"positions has 1 patches per sample, but the network predicts 4"):
        place(Scan(), positions=Scan().positions, channels=4)


TRUTHS = {
    "ground_truth has shape (150,); allowed: complex arrays, (H, W) or (K, H, W)": TRUTH[:, 0],
    "ground_truth is real (float32), without a phase; allowed": np.abs(TRUTH),
    "as amplitude * exp(1j * phase)": np.abs(TRUTH),
    "ground_truth is nowhere finite": TRUTH * np.nan,
    "ground_truth is zero everywhere": TRUTH * 0,
    "ground_truth cannot be used (TypeError: numbers are expected, found a dict": {"objectGuess": TRUTH},
    "ground_truth holds 2 objects, but the samples do not say which one they show": np.stack([TRUTH, TRUTH]),
}


@pytest.mark.parametrize("said", TRUTHS)
def test_a_wrong_truth_raises(said):
    scan = Scan()

    with pytest.raises(WrongSettingError) as error:
        place(scan, positions=scan.positions, ground_truth=TRUTHS[said])

    assert said in str(error.value)


FILES = {
    "has the keys probeGuess, diffraction, none of them a true object (YY_full": ("probeGuess", "diffraction"),
    "(objectGuess) is real": ("objectGuess", "diffraction"),
    "(YY_ground_truth) has shape (150, 130), but no grid is known": ("YY_ground_truth", "diffraction"),
}


@pytest.mark.parametrize("said", FILES)
def test_a_file_without_a_usable_truth_raises(tmp_path, said):
    scan, keys = Scan(), FILES[said]
    truth = TRUTH if "ground_truth" in said else np.abs(TRUTH)
    np.savez(tmp_path / "scan.npz", **dict.fromkeys(keys, truth))

    with pytest.raises(WrongSettingError) as error:
        place(scan, positions=scan.positions, ground_truth=tmp_path / "scan.npz")

    assert said in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged", b"text"])
def test_an_absent_or_damaged_file_raises(tmp_path, content):
    if content is not None:
        (tmp_path / "truth.npz").write_bytes(content)

    with pytest.raises(WrongSettingError, match=r"truth\.npz cannot be used|truth\.npz .*; allowed"):
        place(Scan(), positions=Scan().positions, ground_truth=tmp_path / "truth.npz")


OBJECTS = {
    "object_index has shape (119,)": np.zeros(119, int),
    "allowed: (120,), whole numbers from 0": np.full(120, -1),
    "and values [0.5]": np.full(120, 0.5),
    "object_index cannot be used (TypeError": ["a"] * 120,
    "ground_truth holds 1 object, but the samples show object 1; allowed: numbers 0 to 0": np.arange(120) % 2,
}


@pytest.mark.parametrize("said", OBJECTS)
def test_wrong_object_numbers_raise(said):
    scan = Scan()

    with pytest.raises(WrongSettingError) as error:
        place(scan, positions=scan.positions, object_index=OBJECTS[said], ground_truth=TRUTH)

    assert said in str(error.value)


def test_an_explicit_truth_of_positions_elsewhere_in_the_dataset_raises():
    scan = global_offsets(Scan())
    scan.container.global_offsets = scan.container.global_offsets + 1000

    with pytest.raises(WrongSettingError, match=r"container\.global_offsets has \(x, y\)"):
        place(scan, ground_truth=TRUTH)
