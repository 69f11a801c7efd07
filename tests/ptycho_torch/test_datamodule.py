"""Datasets: items obey the physics, labels and scales agree with each other, and loading is reproducible."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_torch.data.archive import save_npz
from ptycho_torch.data.builders import raw_dataset
from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.data.grid_simulation import GridPlan, simulate_grid_lines
from ptycho_torch.data.grouping import nearest_groups
from ptycho_torch.data.metadata import dump_metadata
from ptycho_torch.data.normalisation import mean_power, normalisation
from ptycho_torch.data.npz import DataError, load_raw_scan
from ptycho_torch.data.patches import cut_patch
from ptycho_torch.data.scan_patterns import scan_positions
from ptycho_torch.data.simulation import simulate_raw_scan
from ptycho_torch.data.specimens import default_pictures, disc_probe, make_object, varied_object
from recon_worker.reconstruction.stitching import crop_start_px, stitch
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
from tests.paths import siemens_star

N = 16
RAW_SHAPE_PX = 64


def _smooth_pictures():
    """Detail several pixels wide, which the bilinear stitching keeps: (H, W) twice."""
    y, x = np.mgrid[:64, :64] / 64
    return np.sin(9 * x + 2 * y**2), np.cos(7 * y - 3 * x**2)


@pytest.fixture(scope="session")
def raw_arrays():
    object_ = make_object(*_smooth_pictures(), RAW_SHAPE_PX)
    positions = scan_positions("spiral", object_.shape, N, 3.0, np.random.default_rng(0))
    return simulate_raw_scan(object_, disc_probe(N, 5), positions, seed=0, noise=False)


@pytest.fixture(scope="session")
def grid_files(tmp_path_factory):
    """By gridsize: paths of noise-free training and test files."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("grid")
    objects = np.stack([varied_object(*default_pictures(), 48, rng) for _ in range(4)])
    files = {}
    for gridsize in (1, 2):
        plan = GridPlan(gridsize=gridsize, outer_offset_test=8)
        splits = simulate_grid_lines(objects[:2], objects[2:], disc_probe(N, 5)[0], plan=plan, seed=0, noise=False)
        files[gridsize] = [root / f"{name}{gridsize}.npz" for name in ("train", "test")]
        for path, arrays in zip(files[gridsize], splits, strict=True):
            save_npz(path, arrays)
    return files


@pytest.fixture
def write(tmp_path):
    def _write(arrays, name="scan.npz"):
        save_npz(tmp_path / name, arrays)
        return tmp_path / name

    return _write


def _module(train, test=None, **settings):
    settings = {"kind": "raw", "n_px": N, "gridsize": 1, "batch_size": 4} | settings
    module = PtychoDataModule(train_data_file=train, test_data_file=test, **settings)
    module.setup("fit")
    return module


def _grid_module(grid_files, gridsize=1, **settings):
    return _module(*grid_files[gridsize], kind="grid_lines", gridsize=gridsize, **settings)


def _far_field(item):
    """Diffraction of an item's labels under its own probe, by plain numpy: sqrt(|fftshift FFT2(O P/4)|^2 / N^2)."""
    fields, probe, _ = item
    waves = fields["label_amp"].numpy() * np.exp(1j * fields["label_phase"].numpy()) * probe.numpy().sum(axis=1) / 4
    return np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(-2, -1))) / N


def _worst_mismatch(dataset):
    def mismatch(item):
        measured = item[0]["images"].numpy() * item[0]["rms_scaling_constant"].numpy()
        return np.linalg.norm(_far_field(item) - measured) / np.linalg.norm(measured)

    return max(mismatch(dataset[i]) for i in range(0, len(dataset), 7))


@pytest.mark.parametrize("gridsize", [1, 2])
def test_labels_of_a_raw_scan_explain_its_diffraction(raw_arrays, write, gridsize):
    dataset = _module(write(raw_arrays), gridsize=gridsize).train_dataset

    assert _worst_mismatch(dataset) < 1e-5


@pytest.mark.parametrize("gridsize", [1, 2])
def test_labels_of_grid_lines_explain_their_diffraction(grid_files, gridsize):
    module = _grid_module(grid_files, gridsize)

    assert _worst_mismatch(module.test_dataset) < 1e-5
    assert _worst_mismatch(module.train_dataset) < 1e-2  # the object is unknown where the probe is dark


def test_labels_explain_the_diffraction_under_several_modes(raw_arrays, write):
    modes = np.concatenate([disc_probe(N, 5), 0.4j * disc_probe(N, 3)])
    positions = np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]], axis=1)
    arrays = simulate_raw_scan(raw_arrays["objectGuess"], modes, positions, seed=0, noise=False)

    dataset = _module(write(arrays)).train_dataset

    assert dataset[0][1].shape == (1, 2, N, N)
    assert _worst_mismatch(dataset) < 1e-5


def test_labels_times_the_amplitude_scale_are_the_object(raw_arrays, write):
    dataset = _module(write({**raw_arrays, "probeGuess": 7 * raw_arrays["probeGuess"]})).train_dataset

    fields, _, _ = dataset[9]
    x, y = fields["coords_global"].numpy().reshape(2).astype(float)
    expected = cut_patch(raw_arrays["objectGuess"], np.array([x, y]), N)
    label = fields["label_amp"][0].numpy() * dataset.amplitude_scale
    np.testing.assert_allclose(label, np.abs(expected), rtol=1e-4)
    np.testing.assert_allclose(fields["label_phase"][0], np.angle(expected), atol=1e-4)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_an_item_has_the_documented_shapes_and_types(raw_arrays, write, gridsize):
    fields, probe, scale = _module(write(raw_arrays), gridsize=gridsize).train_dataset[0]

    c = gridsize**2
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in fields.items()}
    images, coords, constant = ((c, N, N), torch.float32), ((c, 1, 2), torch.float32), ((1, 1, 1), torch.float32)
    assert shapes == {
        **dict.fromkeys(("images", "observed_images", "label_amp", "label_phase"), images),
        **dict.fromkeys(("coords_relative", "coords_global"), coords),
        **dict.fromkeys(("rms_scaling_constant", "physics_scaling_constant"), constant),
        "experiment_id": ((), torch.int64),
    }
    assert (tuple(probe.shape), probe.dtype) == ((c, 1, N, N), torch.complex64)
    assert (tuple(scale.shape), scale.dtype) == ((), torch.float32)


def test_constants_give_the_networks_powers_and_the_photon_count(raw_arrays, write):
    module = _module(write(raw_arrays), nphotons=5e6)

    fields, probe, scale = module.train_dataset[0]
    power = (raw_arrays["diff3d"].astype(np.float64) ** 2).sum(axis=(1, 2)).mean()
    assert power * fields["rms_scaling_constant"].item() ** 2 == pytest.approx((N / 2) ** 2, rel=1e-5)
    assert power * fields["physics_scaling_constant"].item() ** 2 == pytest.approx(5e6, rel=1e-5)
    assert (probe.abs() / 4).square().sum().item() == pytest.approx(1.25**2 * (N / 2) ** 2, rel=1e-5)
    np.testing.assert_allclose(probe[0, 0], raw_arrays["probeGuess"] * scale.item(), rtol=1e-5)


def test_photons_come_from_the_metadata_else_from_the_measured_counts(raw_arrays, write):
    metadata = dump_metadata(nphotons=1e3, gridsize=1, n_px=N)
    measured = {key: value for key, value in raw_arrays.items() if key != "_metadata"}

    stated, counted = (_module(write(a)).train_dataset[0][0] for a in ({**raw_arrays, "_metadata": metadata}, measured))

    power = mean_power(raw_arrays["diff3d"])
    assert stated["physics_scaling_constant"].item() == pytest.approx((1e3 / power) ** 0.5, rel=1e-5)
    assert counted["physics_scaling_constant"].item() == 1


def test_the_validation_set_uses_the_training_sets_constants(raw_arrays, write):
    brighter = {**raw_arrays, "diff3d": 3 * raw_arrays["diff3d"], "probeGuess": 2 * raw_arrays["probeGuess"]}
    module = _module(write(raw_arrays, "train.npz"), write(brighter, "test.npz"))

    train, test = module.train_dataset[0], module.test_dataset[0]
    for name in ("rms_scaling_constant", "physics_scaling_constant"):
        assert torch.equal(train[0][name], test[0][name])
    assert torch.equal(train[1], test[1])
    assert _worst_mismatch(module.test_dataset) < 1e-5


def test_group_members_are_the_nearest_and_ties_go_by_index():
    grid = np.array([(x, y) for y in range(5) for x in range(5)], float)

    groups = nearest_groups(grid, 4)

    assert groups[12].tolist() == [12, 7, 11, 13]
    assert groups[0].tolist() == [0, 1, 5, 6]


def test_a_pattern_leads_its_own_group_even_among_many_duplicates():
    positions = np.zeros((60, 2))

    groups = nearest_groups(positions, 4)

    assert (groups[:, 0] == np.arange(60)).all()
    assert all(len(set(group)) == 4 for group in groups.tolist())


def test_group_coordinates_point_from_the_mean_with_a_minus_sign(raw_arrays, write):
    fields, _, _ = _module(write(raw_arrays), gridsize=2).train_dataset[3]

    absolute = fields["coords_global"].squeeze(1)
    expected = -(absolute - absolute.mean(dim=0))
    torch.testing.assert_close(fields["coords_relative"].squeeze(1), expected, atol=1e-4, rtol=0)


def test_stitched_labels_reproduce_the_ground_truth_of_a_raw_scan(raw_arrays, write):
    dataset = _module(write(raw_arrays)).train_dataset

    (canvas,), (truth,) = stitch(dataset.scan_geometry, _label_crops(dataset)), dataset.ground_truth
    known = canvas.scanned & np.isfinite(truth)
    assert truth.shape == canvas.object.shape
    assert np.corrcoef(np.angle(canvas.object[known]), np.angle(truth[known]))[0, 1] > 0.99
    assert np.abs(canvas.object[known]).mean() == pytest.approx(np.abs(truth[known]).mean(), rel=1e-3)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_stitched_labels_reproduce_the_ground_truth_of_grid_lines(grid_files, gridsize):
    dataset = _grid_module(grid_files, gridsize).test_dataset

    stitched = stitch(dataset.scan_geometry, _label_crops(dataset))

    assert len(stitched) == len(dataset.ground_truth) == 2
    for canvas, truth in zip(stitched, dataset.ground_truth, strict=True):
        np.testing.assert_allclose(canvas.object, truth, atol=1e-4)


def test_the_ground_truth_of_a_test_file_is_the_files_own(grid_files):
    with np.load(grid_files[2][1], allow_pickle=False) as file:
        expected = file["YY_ground_truth"][..., 0]

    np.testing.assert_array_equal(_grid_module(grid_files, 2).test_dataset.ground_truth[0], expected)


def _label_crops(dataset):
    """(n, C, m, m) labels as the stitching takes them."""
    m = dataset.scan_geometry.crop_px
    crop = slice(crop_start_px(N, m), crop_start_px(N, m) + m)
    fields = [dataset[i][0] for i in range(len(dataset))]
    patches = [torch.polar(f["label_amp"], f["label_phase"])[:, crop, crop].numpy() for f in fields]
    return np.stack(patches)


def test_only_the_test_split_of_grid_lines_is_stitched(grid_files):
    module = _grid_module(grid_files)

    assert isinstance(module.test_dataset.scan_geometry, GridGeometry)
    assert module.train_dataset.scan_geometry is None
    assert "shuffled" in module.train_dataset.geometry_skip_reason
    assert module.train_dataset.ground_truth == ()
    assert "coords_global" not in module.test_dataset[0][0]


def test_a_raw_scan_knows_its_geometry(raw_arrays, write):
    geometry = _module(write(raw_arrays), gridsize=2).train_dataset.scan_geometry

    assert isinstance(geometry, PositionGeometry)
    assert geometry.positions_px.shape == (len(raw_arrays["diff3d"]), 4, 2)
    assert replace(geometry, weight="probe").probe_intensity.shape == (N // 2, N // 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outer_offset_test": 0}, "outer_offset is 0 px"),
        ({"outer_offset_test": None}, "no whole number for outer_offset_test"),
        ({"outer_offset_test": 2 * N}, "twice the patch side"),
        ({"outer_offset_test": 2 * N + 2}, "twice the patch side"),
        ({"nimgs_test": 3}, "square"),
    ],
)
def test_a_grid_that_cannot_be_stitched_says_why_and_still_gives_samples(grid_files, write, changes, reason):
    train, test = grid_files[1]
    with np.load(test, allow_pickle=False) as file:
        arrays = dict(file)
    document = json.loads(arrays["_metadata"].item())
    document["additional_parameters"].update(changes)
    arrays["_metadata"] = np.array(json.dumps(document))

    dataset = _module(train, write(arrays), kind="grid_lines").test_dataset

    assert dataset.scan_geometry is None
    assert reason in dataset.geometry_skip_reason
    assert _worst_mismatch(dataset) < 1e-2


def test_objects_of_another_grid_are_left_out_with_a_warning(grid_files, write):
    train, test = grid_files[1]
    with np.load(test, allow_pickle=False) as file:
        arrays = {**file, "YY_full": file["YY_full"][:1]}

    with pytest.warns(UserWarning, match="YY_full holds 1 objects"):
        dataset = _module(train, write(arrays), kind="grid_lines").test_dataset

    np.testing.assert_array_equal(dataset.ground_truth[0], arrays["YY_ground_truth"][..., 0])
    assert dataset.ground_truth[1] is None


def test_supervised_grid_lines_are_scaled_by_the_files_norm(grid_files):
    dataset = _grid_module(grid_files, model_type="supervised").test_dataset

    with np.load(grid_files[1][1], allow_pickle=False) as file:
        assert dataset.amplitude_scale == dataset.scan_geometry.amplitude_scale == file["norm_Y_I"]
        expected = np.abs(file["YY_full"][0, :N, :N, 0])
    np.testing.assert_allclose(dataset[0][0]["label_amp"][0] * dataset.amplitude_scale, expected, rtol=1e-5)


def test_patches_that_stick_out_of_the_object_have_no_label(raw_arrays, write):
    smaller = {**raw_arrays, "objectGuess": raw_arrays["objectGuess"][:48, :48]}
    dataset = _module(write(smaller)).train_dataset

    fits = (np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]]) <= 48 - N / 2).all(axis=0)
    labelled = np.array([bool(dataset[i][0]["label_amp"].any()) for i in range(len(dataset))])
    np.testing.assert_array_equal(labelled, fits)
    assert np.isnan(dataset.ground_truth[0][-1, -1])


def test_a_scan_without_truth_has_zero_labels(raw_arrays, write):
    bare = {key: value for key, value in raw_arrays.items() if key != "objectGuess"}

    dataset = _module(write(bare)).train_dataset

    assert not dataset[0][0]["label_amp"].any()
    assert dataset.ground_truth == (None,)
    assert dataset.amplitude_scale == dataset.scan_geometry.amplitude_scale == 1


def test_true_patches_of_the_file_serve_where_there_is_no_object(raw_arrays, write):
    positions = np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]], axis=1)
    patches = np.stack([cut_patch(raw_arrays["objectGuess"], p, N) for p in positions])
    arrays = {**raw_arrays, "Y": patches[..., None]}
    del arrays["objectGuess"]

    assert _worst_mismatch(_module(write(arrays)).train_dataset) < 1e-5


def test_a_pinn_without_a_probe_names_the_flag_and_takes_the_probe_file(raw_arrays, write):
    bare = write({key: value for key, value in raw_arrays.items() if key != "probeGuess"})
    probe_file = write({"probeGuess": raw_arrays["probeGuess"]}, "probe.npz")

    with pytest.raises(DataError, match="--probe_file"):
        _module(bare)
    assert _worst_mismatch(_module(bare, probe_file=probe_file).train_dataset) < 1e-5


def test_a_probe_file_of_another_size_is_refused(raw_arrays, write):
    probe_file = write({"probeGuess": disc_probe(2 * N, 5)[0]}, "probe.npz")

    with pytest.raises(DataError, match="32 x 32 px, but N is 16"):
        _module(write(raw_arrays), probe_file=probe_file)


def test_a_supervised_model_needs_all_labels(raw_arrays, write):
    bare = {key: value for key, value in raw_arrays.items() if key != "objectGuess"}

    with pytest.raises(DataError, match=r"of \d+ patterns have no true object patch"):
        _module(write(bare), model_type="supervised")
    assert len(_module(write(raw_arrays), model_type="supervised").train_dataset) == len(raw_arrays["diff3d"])


@pytest.mark.parametrize(("settings", "message"), [({"n_px": 64}, "Use --N 16"), ({"gridsize": 2}, "Use --gridsize 1")])
def test_settings_that_contradict_the_file_name_the_right_value(grid_files, settings, message):
    with pytest.raises(DataError, match=message):
        _module(*grid_files[1], **({"kind": "grid_lines"} | settings))


def test_a_scan_too_small_for_groups_is_refused(raw_arrays, write):
    few = {k: v[:3] if k in ("diff3d", "xcoords", "ycoords", "scan_index") else v for k, v in raw_arrays.items()}

    with pytest.raises(DataError, match="a group needs 4"):
        _module(write(few), gridsize=2)


def test_the_order_depends_on_the_seed_alone_and_draws_nothing_globally(raw_arrays, write):
    path = write(raw_arrays)
    orders = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        module = _module(path, path, seed=seed)
        orders.append(torch.cat([batch[0]["coords_global"] for batch in module.train_dataloader()]))
        list(module.val_dataloader())
        assert torch.equal(before, torch.get_rng_state())

    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_setup_reads_once_and_no_test_file_means_no_validation_loader(raw_arrays, write):
    module = _module(write(raw_arrays))
    dataset = module.train_dataset

    module.setup("validate")

    assert module.train_dataset is dataset
    assert module.test_dataset is None
    assert module.val_dataloader() == []


def test_loading_processes_deliver_the_same_batches(raw_arrays, write):
    path = write(raw_arrays)

    alone, workers = (next(iter(_module(path, num_workers=n).train_dataloader())) for n in (0, 2))

    for name, value in alone[0].items():
        assert torch.equal(value, workers[0][name])
    assert alone[1].shape == (4, 1, 1, N, N)


def test_patches_are_exact_at_whole_positions_and_keep_slopes_between_up_to_the_edge():
    rows, columns = np.mgrid[:20, :20]
    object_ = ((20 * rows + columns) * (1 + 1j)).astype(np.complex64)

    whole, between = cut_patch(object_, np.array([12.0, 10.0]), N), cut_patch(object_, np.array([9.5, 8.25]), N)

    np.testing.assert_array_equal(whole, object_[2:18, 4:20])
    np.testing.assert_allclose(between, object_[:N, :N] + (20 * 0.25 + 1.5) * (1 + 1j), rtol=1e-6)
    assert cut_patch(object_, np.array([12.5, 10.0]), N) is None


@pytest.mark.parametrize("slope_rad", [0.5, 1.0])
def test_patches_between_pixels_keep_the_amplitude_of_a_steep_phase(slope_rad):
    rows, columns = np.mgrid[:60, :60].astype(float)
    phase = slope_rad * (columns - rows) / np.sqrt(2)
    x, y = 30.5, 29.5

    patch = cut_patch(np.exp(1j * phase).astype(np.complex64), np.array([x, y]), N)

    expected = np.exp(1j * (phase[:N, :N] + slope_rad * (x - y) / np.sqrt(2)))
    assert np.cos(slope_rad / np.sqrt(8)) ** 2 < 0.97  # the amplitude of a bilinear average
    assert np.abs(patch) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(patch, expected, atol=0.01)


def test_patches_between_pixels_agree_with_a_fourier_shift():
    rng = np.random.default_rng(0)
    spectrum = np.zeros((60, 60), complex)
    spectrum[:9, :9] = rng.normal(size=(9, 9)) + 1j * rng.normal(size=(9, 9))  # periods of 7 px and more
    dx, dy = 0.3, 0.8
    frequency = np.arange(60) / 60
    moved = spectrum * np.exp(2j * np.pi * (dy * frequency[:, None] + dx * frequency))

    patch = cut_patch(np.fft.ifft2(spectrum).astype(np.complex64), np.array([30 + dx, 30 + dy]), N)

    expected = np.fft.ifft2(moved)[30 - N // 2 : 30 + N // 2, 30 - N // 2 : 30 + N // 2]
    np.testing.assert_allclose(patch, expected, atol=2e-3 * np.abs(expected).max())


def test_a_hole_in_an_object_is_unknown_only_to_patches_that_reach_it():
    object_ = np.ones((60, 60), np.complex64)
    object_[:, 50] = np.nan
    beside = 50 - N // 2  # the last column of a patch there is next to the hole

    near, far = (cut_patch(object_, np.array([beside - distance, 30.5]), N) for distance in (0.5, 3.5))

    assert np.isnan(near[:, -3:]).any()
    np.testing.assert_allclose(far, 1, rtol=1e-6)


def test_the_measured_star_fits_the_amplitude_head():
    scan = load_raw_scan(siemens_star(64))

    constants = normalisation(scan.diffraction, scan.probe, None)
    dataset = raw_dataset(scan, gridsize=1, constants=constants, source="star")

    truth = np.abs(dataset.ground_truth[0]) / dataset.amplitude_scale
    assert np.nanmean(truth) == pytest.approx(0.8, abs=0.02)
    assert constants.physics == 1


def test_neighbours_follow_each_other_and_every_sample_comes_once(raw_arrays, write):
    module = PtychoDataModule(
        train_data_file=write(raw_arrays), test_data_file=None, kind="raw", n_px=N, gridsize=1, batch_size=8,
        merge_neighbours=4, seed=3,
    )  # fmt: skip
    module.setup("fit")
    loader, every = module.train_dataloader(), module.train_dataset.sample_positions_px
    first, second = (torch.cat([batch[0]["coords_global"][:, 0, 0] for batch in loader]).numpy() for _ in range(2))

    whole = len(every) // 4 * 4
    spread = np.ptp(first[:whole].reshape(-1, 4, 2), axis=1).max(axis=1)
    assert spread.mean() < 2 * 3.0  # of the scan's step
    for order in (first, second):
        np.testing.assert_allclose(np.sort(order, axis=0), np.sort(every, axis=0), atol=1e-4)
    assert not np.array_equal(first, second)
