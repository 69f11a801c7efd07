"""Datamodule: constants, probe, checks against the settings, and reproducible loading."""

import numpy as np
import pytest
import torch

from ptycho_torch.data.builders import raw_dataset
from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.data.normalisation import mean_power, normalisation
from ptycho_torch.files.metadata import dump_metadata
from ptycho_torch.files.npz import DataError, load_raw_scan
from ptycho_torch.simulation.specimens import disc_probe
from tests.paths import siemens_star
from tests.ptycho_torch.scans import N, module_of, worst_mismatch


@pytest.mark.parametrize("gridsize", [1, 2])
def test_an_item_has_the_documented_shapes_and_types(raw_arrays, write, gridsize):
    fields, probe, scale = module_of(write(raw_arrays), gridsize=gridsize).train_dataset[0]

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
    module = module_of(write(raw_arrays), nphotons=5e6)

    fields, probe, scale = module.train_dataset[0]
    power = (raw_arrays["diff3d"].astype(np.float64) ** 2).sum(axis=(1, 2)).mean()
    assert power * fields["rms_scaling_constant"].item() ** 2 == pytest.approx((N / 2) ** 2, rel=1e-5)
    assert power * fields["physics_scaling_constant"].item() ** 2 == pytest.approx(5e6, rel=1e-5)
    assert (probe.abs() / 4).square().sum().item() == pytest.approx(1.25**2 * (N / 2) ** 2, rel=1e-5)
    np.testing.assert_allclose(probe[0, 0], raw_arrays["probeGuess"] * scale.item(), rtol=1e-5)


def test_photons_come_from_the_metadata_else_from_the_measured_counts(raw_arrays, write):
    metadata = dump_metadata(nphotons=1e3, gridsize=1, n_px=N)
    measured = {key: value for key, value in raw_arrays.items() if key != "_metadata"}

    stated, counted = (
        module_of(write(a)).train_dataset[0][0] for a in ({**raw_arrays, "_metadata": metadata}, measured)
    )

    power = mean_power(raw_arrays["diff3d"])
    assert stated["physics_scaling_constant"].item() == pytest.approx((1e3 / power) ** 0.5, rel=1e-5)
    assert counted["physics_scaling_constant"].item() == 1


def test_the_validation_set_uses_the_training_sets_constants(raw_arrays, write):
    brighter = {**raw_arrays, "diff3d": 3 * raw_arrays["diff3d"], "probeGuess": 2 * raw_arrays["probeGuess"]}
    module = module_of(write(raw_arrays, "train.npz"), write(brighter, "test.npz"))

    train, test = module.train_dataset[0], module.test_dataset[0]
    for name in ("rms_scaling_constant", "physics_scaling_constant"):
        assert torch.equal(train[0][name], test[0][name])
    assert torch.equal(train[1], test[1])
    assert worst_mismatch(module.test_dataset) < 1e-5


def test_a_pinn_without_a_probe_names_the_flag_and_takes_the_probe_file(raw_arrays, write):
    bare = write({key: value for key, value in raw_arrays.items() if key != "probeGuess"})
    probe_file = write({"probeGuess": raw_arrays["probeGuess"]}, "probe.npz")

    with pytest.raises(DataError, match="--probe_file"):
        module_of(bare)
    assert worst_mismatch(module_of(bare, probe_file=probe_file).train_dataset) < 1e-5


def test_a_probe_file_of_another_size_is_refused(raw_arrays, write):
    probe_file = write({"probeGuess": disc_probe(2 * N, 5)[0]}, "probe.npz")

    with pytest.raises(DataError, match="32 x 32 px, but N is 16"):
        module_of(write(raw_arrays), probe_file=probe_file)


def test_a_supervised_model_needs_all_labels(raw_arrays, write):
    bare = {key: value for key, value in raw_arrays.items() if key != "objectGuess"}

    with pytest.raises(DataError, match=r"of \d+ patterns have no true object patch"):
        module_of(write(bare), model_type="supervised")
    assert len(module_of(write(raw_arrays), model_type="supervised").train_dataset) == len(raw_arrays["diff3d"])


@pytest.mark.parametrize(("settings", "message"), [({"n_px": 64}, "Use --N 16"), ({"gridsize": 2}, "Use --gridsize 1")])
def test_settings_that_contradict_the_file_name_the_right_value(grid_files, settings, message):
    with pytest.raises(DataError, match=message):
        module_of(*grid_files[1], **({"kind": "grid_lines"} | settings))


def test_a_scan_too_small_for_groups_is_refused(raw_arrays, write):
    few = {k: v[:3] if k in ("diff3d", "xcoords", "ycoords", "scan_index") else v for k, v in raw_arrays.items()}

    with pytest.raises(DataError, match="a group needs 4"):
        module_of(write(few), gridsize=2)


def test_the_order_depends_on_the_seed_alone_and_draws_nothing_globally(raw_arrays, write):
    path = write(raw_arrays)
    orders = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        module = module_of(path, path, seed=seed)
        orders.append(torch.cat([batch[0]["coords_global"] for batch in module.train_dataloader()]))
        list(module.val_dataloader())
        assert torch.equal(before, torch.get_rng_state())

    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_setup_reads_once_and_no_test_file_means_no_validation_loader(raw_arrays, write):
    module = module_of(write(raw_arrays))
    dataset = module.train_dataset

    module.setup("validate")

    assert module.train_dataset is dataset
    assert module.test_dataset is None
    assert module.val_dataloader() == []


def test_loading_processes_deliver_the_same_batches(raw_arrays, write):
    path = write(raw_arrays)

    alone, workers = (next(iter(module_of(path, num_workers=n).train_dataloader())) for n in (0, 2))

    for name, value in alone[0].items():
        assert torch.equal(value, workers[0][name])
    assert alone[1].shape == (4, 1, 1, N, N)


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
