"""Misfit of the scan positions of an object: map, statistics and table."""

import numpy as np
import pytest

from recon_worker.reconstruction.misfit import SampleMisfit, misfit_of
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry


def _random_misfit(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return SampleMisfit(
        samples=np.arange(n) * 3,
        positions_px=rng.uniform(5, 55, (n, 2)),
        r_factor=rng.uniform(0.1, 1, n).astype(np.float32),
        deviance_per_photon=rng.uniform(0, 3, n).astype(np.float32),
    )


def test_each_pixel_of_the_map_shows_the_nearest_position():
    one = _random_misfit()

    values, shown = one.image(np.ones((60, 60), bool))

    y, x = np.mgrid[:60, :60]
    centres = np.rint(one.positions_px)
    distances = np.hypot(x[..., None] - centres[:, 0], y[..., None] - centres[:, 1])
    ties = np.isclose(distances, distances.min(axis=-1, keepdims=True)).sum(axis=-1) > 1
    np.testing.assert_array_equal(values[~ties], one.r_factor[distances.argmin(axis=-1)][~ties])
    np.testing.assert_array_equal(shown, distances.min(axis=-1) <= np.sqrt(60 * 60 / 40))


def test_the_map_shows_nothing_where_no_patch_is_and_the_worst_of_equal_positions():
    scanned = np.ones((20, 20), bool)
    scanned[:, :10] = False
    values = np.array([0.2, np.nan, 0.3], np.float32)
    one = SampleMisfit(
        samples=np.arange(3), positions_px=np.full((3, 2), 12.0), r_factor=values, deviance_per_photon=values
    )

    shown_values, shown = one.image(scanned)

    assert not shown[:, :10].any()
    assert shown[10:15, 10:15].all()
    assert np.isnan(shown_values).all()


def test_statistics_are_of_the_finite_values_and_the_worst_come_first():
    one = _random_misfit(101)
    one.r_factor[:] = np.linspace(0, 1, 101)
    one.r_factor[0] = np.nan

    assert one.samples[one.worst_first()[:3]].tolist() == [0, 300, 297]
    assert repr(one) == "<SampleMisfit: 101 samples, worst R-factor nan at sample 0>"
    assert one.metrics()["misfit_r_factor_median"] == pytest.approx(0.505)
    assert one.metrics()["misfit_r_factor_p95"] == pytest.approx(np.percentile(np.linspace(0.01, 1, 100), 95))


def test_the_table_is_read_back_exactly_but_for_rounded_positions():
    one = _random_misfit()
    one.r_factor[3], one.deviance_per_photon[3] = np.nan, np.inf

    text = one.to_csv().decode()
    back = SampleMisfit.from_csv(text)

    assert text.splitlines()[0] == "sample,x_px,y_px,r_factor,deviance_per_photon"
    assert text.splitlines()[1].startswith("9,")
    for name in ("samples", "r_factor", "deviance_per_photon"):
        np.testing.assert_array_equal(getattr(back, name), getattr(one, name))
    np.testing.assert_allclose(back.positions_px, one.positions_px, atol=5.1e-4)


def test_the_table_of_a_large_scan_has_the_worst_samples():
    one = _random_misfit(100_000)

    back = SampleMisfit.from_csv(one.to_csv().decode())

    assert back.samples.tolist() == sorted(one.samples[one.worst_first()[:10_000]])


@pytest.mark.parametrize("text", ["", "sample,r_factor\n1,2\n", "sample,x_px,y_px,r_factor,deviance_per_photon\n1,2\n"])
def test_a_damaged_table_is_refused(text):
    with pytest.raises(ValueError, match=r"columns|could not convert"):
        SampleMisfit.from_csv(text)


def test_each_object_has_the_predicted_samples_of_its_own():
    positions = np.random.default_rng(1).uniform(20, 60, (6, 2, 2))
    geometry = PositionGeometry(
        patch_px=16, crop_px=8, positions_px=positions, object_index=np.array([0, 1, 0, 1, 0, 1])
    )
    misfit = np.arange(12, dtype=np.float32).reshape(6, 2)

    found = misfit_of(geometry, 1, misfit, np.arange(6) != 3)

    assert found.samples.tolist() == [1, 5]
    assert found.r_factor.tolist() == [2, 10]
    assert found.deviance_per_photon.tolist() == [3, 11]
    row, column, _ = geometry.footprint(1)
    np.testing.assert_allclose(found.positions_px, positions[[1, 5]].mean(axis=1) - [column, row])


def test_positions_of_a_grid_are_the_centres_of_its_tiles():
    geometry = GridGeometry(patch_px=16, outer_offset_px=8, n_objects=2, n_samples=18)

    found = misfit_of(geometry, 1, np.ones((18, 2), np.float32), np.ones(18, bool))

    assert found.samples.tolist() == list(range(9, 18))
    assert np.diff(found.positions_px[:3, 0]).tolist() == [4, 4]


def test_samples_beyond_those_of_the_snapshot_have_no_misfit():
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=np.full((6, 1, 2), 20.0))

    found = misfit_of(geometry, 0, np.ones((4, 2), np.float32), np.ones(4, bool))

    assert found.samples.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("misfit", [np.zeros((0, 2), np.float32), np.full((6, 2), np.nan, np.float32)])
def test_there_is_no_misfit_if_it_is_unknown(misfit):
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=np.full((6, 1, 2), 20.0))

    assert misfit_of(geometry, 0, misfit, np.ones(6, bool)) is None


def test_unknown_samples_are_left_out_and_those_that_are_not_finite_are_nan():
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=np.full((6, 1, 2), 20.0))
    misfit = np.full((6, 2), 0.5, np.float32)
    misfit[[0, 3]], misfit[4] = np.nan, np.inf

    found = misfit_of(geometry, 0, misfit, np.ones(6, bool))

    assert found.samples.tolist() == [1, 2, 4, 5]
    assert np.isnan(found.r_factor).tolist() == [False, False, True, False]
    assert found.worst_first()[0] == 2
