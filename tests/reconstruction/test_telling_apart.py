"""Each metric distinguishes a good training from a failed one and from an untrained network.

good       the true patches, a little blurred and noisy
failed     one patch for all patterns: the mean of the true patches
untrained  an initialised network
"""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.model.physics import PROBE_SCALE, diffraction_amplitude
from ptycho_torch.simulation.raw_scan import simulate_raw_scan
from ptycho_torch.simulation.scan_patterns import scan_positions
from ptycho_torch.simulation.specimens import default_pictures, disc_probe, make_object
from recon_worker.capture.adapters import PtychoPinnAdapter
from recon_worker.capture.dataset import read_scan
from recon_worker.capture.plan import ScanOptions
from recon_worker.pictures.colour_ranges import ColourRanges
from recon_worker.pictures.snapshot_figures import SnapshotFigures
from recon_worker.snapshot.records import Snapshot

pytestmark = pytest.mark.xdist_group("telling apart")  # all use one fixture, which takes seconds
N, SIDE = 64, 168
CENTRE = slice(N // 4, N // 4 + N // 2)
HIGH = {"phase_correlation": 0.3, "amp_correlation": 0.5, "amp_psnr_db": 10, "phase_psnr_db": 15, "phase_ssim": 0.5}
HIGH |= {"amp_ssim": 0.15}
"""Minimum advantage of a good training. Large parts of the object have a uniform amplitude, and patches of an untrained
network follow the brightness of the patterns: its phase correlates with the truth, here with 0.61."""
LOW = ("amp_mae", "phase_mae_rad")
FIXED = (0, 30, 60, 90)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    object_ = make_object(*default_pictures(), SIDE)
    positions = scan_positions("spiral", (SIDE, SIDE), N, 8.0, np.random.default_rng(0))
    scan = simulate_raw_scan(object_, disc_probe(N, 14), positions, nphotons=1e6, seed=0)
    np.savez(path, **scan)
    module = PtychoDataModule(
        train_data_file=path, test_data_file=None, kind="raw", n_px=N, gridsize=1, batch_size=16, model_type="pinn"
    )
    module.setup("fit")
    return module.train_dataset


def _predictions(kind, batch):
    """Amplitude and phase, (n, N, N) each, in the network's units."""
    fields = batch[0]
    if kind == "untrained":
        torch.manual_seed(0)
        network = PtychoLightningModule(n_px=N, n_filters_scale=1).network
        with torch.no_grad():
            amp, phase = network(fields["images"] * fields["rms_scaling_constant"])
        return amp[:, 0].numpy(), phase[:, 0].numpy()
    amp, phase = (fields[name][:, 0].numpy() for name in ("label_amp", "label_phase"))
    if kind == "failed":
        mean = np.broadcast_to((amp * np.exp(1j * phase)).mean(axis=0), amp.shape)
        return np.abs(mean), np.angle(mean)
    rng = np.random.default_rng(1)
    return tuple(gaussian_filter(one, (0, 0.4, 0.4)) + rng.normal(0, 0.005, one.shape) for one in (amp, phase))


def _diffraction(amp, phase, batch):
    fields, probe, _ = batch
    waves = torch.from_numpy(amp * np.exp(1j * phase)).to(torch.complex64)[:, None, None] * probe / PROBE_SCALE
    return (diffraction_amplitude(waves) / fields["rms_scaling_constant"])[:, 0].numpy()


def _numbers(dataset, kind, truth=True):
    data = read_scan(dataset, PtychoPinnAdapter(), FIXED, ScanOptions(log_stitch=True))
    scan, layout = data.scan, data.layout
    batch = torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])
    amp, phase = _predictions(kind, batch)
    diffraction, arrays = _diffraction(amp, phase, batch), layout.allocate()
    fixed = list(FIXED)
    arrays.fixed_amp[:], arrays.fixed_phase[:], arrays.fixed_diffraction[:] = (
        amp[fixed],
        phase[fixed],
        diffraction[fixed],
    )
    arrays.stitch_amp[:, 0], arrays.stitch_phase[:, 0] = amp[:, CENTRE, CENTRE], phase[:, CENTRE, CENTRE]
    arrays.fixed_filled[:], arrays.stitch_filled[:] = True, True
    one = Snapshot(epoch=1, step=1, has_diffraction=True, created_unix_s=time.time(), stall_s=0.0, arrays=arrays)
    scan = scan if truth else dataclasses.replace(scan, ground_truth=(), label_amp=None, label_phase=None)
    shown = [one for _, make in SnapshotFigures(scan, one, ColourRanges()).picture_groups() for one in make()]
    patches = [one.raw.metrics for one in shown[1:]]
    return shown[0].raw.metrics, {name: np.mean([one[name] for one in patches]) for name in patches[0]}


@pytest.fixture(scope="module")
def with_truth(dataset):
    return {kind: _numbers(dataset, kind) for kind in ("good", "failed", "untrained")}


@pytest.mark.parametrize("bad", ["failed", "untrained"])
def test_metrics_against_the_truth_distinguish_them(with_truth, bad):
    good, poor = with_truth["good"][0], with_truth[bad][0]

    for name, difference in HIGH.items():
        assert good[name] > poor[name] + difference, name
    for name in LOW:
        assert good[name] < poor[name] / 2, name
    assert good["frc_cutoff_half"] > 0.3 > 3 * poor["frc_cutoff_half"]


@pytest.mark.parametrize("bad", ["failed", "untrained"])
def test_diffraction_metrics_distinguish_them_without_a_truth(with_truth, bad):
    """The mean pattern separates the two."""
    good, poor = with_truth["good"][1], with_truth[bad][1]

    for name in ("r_factor", "deviance"):
        assert good[name] < good[f"mean_pattern_{name}"] / 2, name
        assert poor[name] > poor[f"mean_pattern_{name}"], name
        assert math.isfinite(poor[name])


def test_half_data_metrics_distinguish_a_good_training_from_an_untrained_network(dataset):
    good, untrained = (_numbers(dataset, kind, truth=False)[0] for kind in ("good", "untrained"))

    assert good["half_data_frc_cutoff"] > 0.3 > 2 * untrained["half_data_frc_cutoff"]
