"""Wrong units, a wrong origin and swapped axes are refused before training; unusual but valid scans are not."""

import numpy as np
import pytest

from ptycho_torch.data.overview import Overview, probe_diameter_px
from ptycho_torch.files.archive import save_npz
from ptycho_torch.files.npz import DataError, load_raw_scan
from ptycho_torch.simulation.specimens import disc_probe

N = 16


@pytest.fixture
def load(tmp_path):
    """Reads a scan with these positions, (M, 2), (x, y), and an object of (rows, columns)."""

    def _load(positions, object_shape=None):
        rng = np.random.default_rng(0)
        arrays = {"diff3d": rng.random((len(positions), N, N), np.float32)}
        arrays |= dict(zip(("xcoords", "ycoords"), np.asarray(positions, float).T, strict=True))
        if object_shape is not None:
            arrays["objectGuess"] = np.ones(object_shape, np.complex64)
        save_npz(tmp_path / "scan.npz", arrays)
        return load_raw_scan(tmp_path / "scan.npz")

    return _load


def _raster(columns=10, rows=10, step=4.0, start=10.0):
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return start + step * np.stack([x.ravel(), y.ravel()], axis=1)


@pytest.mark.parametrize("object_shape", [None, (60, 60)])
@pytest.mark.parametrize(
    ("per_px", "unit", "field"),
    [(10e-9, "metres", "3.6e-07 x 3.6e-07"), (1e-5, "metres", "0.00036"), (1e-3, "millimetres", "0.036 x 0.036")],
)
def test_positions_in_other_units_are_refused_with_both_sizes_and_the_likely_unit(
    load, per_px, unit, field, object_shape
):
    with pytest.raises(DataError, match=f"over {field}.* patches have 16 px.* in {unit}. .*divide them by") as caught:
        load(_raster() * per_px, object_shape)

    assert ("objectGuess 60 x 60 px" in str(caught.value)) == (object_shape is not None)


@pytest.mark.parametrize("scan", [_raster(40, 40) * 0.01, _raster(40, 40) * 0.02])
def test_positions_in_micrometres_are_refused_although_the_field_is_wider_than_a_pixel(load, scan):
    assert np.ptp(scan) > 1

    with pytest.raises(DataError, match=r"median step is 0.0[48] px, .* in micrometres"):
        load(scan)


def test_positions_in_nanometres_are_refused_with_and_without_an_object(load):
    with pytest.raises(DataError, match=r"360 x 360 px .*neighbours do not overlap: they may be in nanometres"):
        load(_raster() * 10)
    with pytest.raises(DataError, match=r"objectGuess 60 x 60 px.* first at .*may be in nanometres"):
        load(_raster() * 10, (60, 60))


def test_one_lost_position_that_would_make_the_canvas_huge_is_refused(load):
    with pytest.raises(DataError, match=r"101 patches cover at most .* some positions are wrong"):
        load([*_raster(), (1e6, 1e6)])


def test_positions_with_another_origin_are_refused_without_naming_a_unit(load):
    with pytest.raises(DataError, match="100 of 100 positions lie more than a patch outside") as caught:
        load(_raster(start=-60), (60, 60))

    assert "nanometres" not in str(caught.value)


def test_exchanged_axes_are_named_where_the_object_shows_them(load):
    wide = _raster(columns=14, rows=4)

    assert load(wide, (40, 80)).object.shape == (40, 80)
    with pytest.raises(DataError, match="Swap xcoords and ycoords"):
        load(wide[:, ::-1], (40, 80))


@pytest.mark.parametrize(
    "positions",
    [
        [(20.0, 20.0)],
        [(20.0, 20.0)] * 5,  # exposures of one place
        _raster(columns=1),  # a line scan
        _raster(rows=1, step=0.3),
        np.repeat(_raster(4, 4, step=2.0), 50, axis=0),  # every place 50 times
        [(10.0, 10.0), (11.0, 10.0)],
        _raster(step=0.1, columns=30, rows=3),
        _raster(step=1.5 * N),  # no overlap
        np.array([(k, 0.9 * k) for k in range(3000)]),  # a long diagonal
    ],
)
def test_unusual_but_possible_scans_are_read(load, positions):
    np.testing.assert_array_equal(load(positions).positions_px, positions)


def test_the_probes_diameter_is_that_of_a_disc_and_four_sigmas_of_a_gaussian():
    disc = disc_probe(64, 16, edge_px=0.1)
    radius = np.hypot(*(np.mgrid[:64, :64] - 32))
    gaussian = np.exp(-(radius**2) / (4 * 5.0**2)).astype(np.complex64)[None]  # intensity of sigma 5

    assert probe_diameter_px(disc) == pytest.approx(32, rel=0.01)
    assert probe_diameter_px(gaussian) == pytest.approx(20, rel=0.01)
    assert probe_diameter_px(np.concatenate([disc, disc]) * 3j) == pytest.approx(32, rel=0.01)
    assert probe_diameter_px(np.ones((1, 64, 64), np.complex64)) is None


@pytest.mark.parametrize(
    ("step", "said"), [(8.0, ", overlap 60 %"), (25.0, ", overlap 0 % (are the positions in pixels?)"), (0.0, "")]
)
def test_the_overlap_is_that_of_neighbouring_probes_along_a_line(step, said):
    overview = Overview(
        samples=9,
        patterns=9,
        n_px=64,
        field_px=(64.0, 64.0),
        step_px=step,
        probe_px=20.0,
        photons=1e6,
        photons_stated=True,
        patterns_with_truth=0,
    )

    assert overview.describe("train", "scan.npz")[2].endswith(f"median step {step:g} px{said}")
