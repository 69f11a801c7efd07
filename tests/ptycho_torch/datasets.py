"""Data modules of small files, and how well the labels of their items explain the diffraction."""

import numpy as np
import torch

from ptycho_torch.data.datamodule import PtychoDataModule
from recon_worker.reconstruction.stitching import crop_start_px

M, N = 5, 16
"""Patterns of a small file, and their side in px."""


def data_module(train, test=None, **settings):
    settings = {"kind": "raw", "n_px": N, "gridsize": 1, "batch_size": 4} | settings
    module = PtychoDataModule(train_data_file=train, test_data_file=test, **settings)
    module.setup("fit")
    return module


def grid_module(grid_files, gridsize=1, **settings):
    return data_module(*grid_files[gridsize], kind="grid_lines", gridsize=gridsize, **settings)


def far_field(item):
    """Diffraction of an item's labels under its own probe, by plain numpy: sqrt(|fftshift FFT2(O P/4)|^2 / N^2)."""
    fields, probe, _ = item
    waves = fields["label_amp"].numpy() * np.exp(1j * fields["label_phase"].numpy()) * probe.numpy().sum(axis=1) / 4
    return np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(-2, -1))) / N


def worst_mismatch(dataset):
    def mismatch(item):
        measured = item[0]["images"].numpy() * item[0]["rms_scaling_constant"].numpy()
        return np.linalg.norm(far_field(item) - measured) / np.linalg.norm(measured)

    return max(mismatch(dataset[i]) for i in range(0, len(dataset), 7))


def label_crops(dataset):
    """(n, C, m, m) labels as the stitching takes them."""
    m = dataset.scan_geometry.crop_px
    crop = slice(crop_start_px(N, m), crop_start_px(N, m) + m)
    fields = [dataset[i][0] for i in range(len(dataset))]
    patches = [torch.polar(f["label_amp"], f["label_phase"])[:, crop, crop].numpy() for f in fields]
    return np.stack(patches)
