"""Sizes of the scans that the fixtures make, and datamodules that read them."""

import numpy as np

from ptycho_torch.data.datamodule import PtychoDataModule

M, N = 5, 16
"""Patterns of the fixture `raw`, and their side in all fixtures."""


def module_of(train, test=None, **settings):
    settings = {"kind": "raw", "n_px": N, "gridsize": 1, "batch_size": 4} | settings
    module = PtychoDataModule(train_data_file=train, test_data_file=test, **settings)
    module.setup("fit")
    return module


def grid_module_of(grid_files, gridsize=1, **settings):
    return module_of(*grid_files[gridsize], kind="grid_lines", gridsize=gridsize, **settings)


def _far_field(item):
    """Diffraction of an item's labels under its own probe, by plain numpy: sqrt(|fftshift FFT2(O P/4)|^2 / N^2)."""
    fields, probe, _ = item
    waves = fields["label_amp"].numpy() * np.exp(1j * fields["label_phase"].numpy()) * probe.numpy().sum(axis=1) / 4
    return np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(-2, -1))) / N


def worst_mismatch(dataset):
    """Largest relative difference between the diffraction of labels and the measured diffraction."""

    def mismatch(item):
        measured = item[0]["images"].numpy() * item[0]["rms_scaling_constant"].numpy()
        return np.linalg.norm(_far_field(item) - measured) / np.linalg.norm(measured)

    return max(mismatch(dataset[i]) for i in range(0, len(dataset), 7))
