"""A simulated scan as tensors with true patches, read without `ptycho_torch`, as an unrelated project would."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from recon_worker.snapshot.array_types import Complex64, Float64


class ScanData:
    """One file of `logging_data.write_data`."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            patterns, self.truth = file["diff3d"], file["objectGuess"].astype(np.complex64)
            self.positions_px: Float64 = np.stack([file["xcoords"], file["ycoords"]], axis=-1)
        n_px = patterns.shape[-1]
        power = np.square(patterns, dtype=np.float64).sum((1, 2)).mean()
        self.patterns = torch.from_numpy(patterns[:, None] * np.float32(n_px / 2 / power**0.5))
        true = torch.from_numpy(_patches(self.truth, self.positions_px, n_px))[:, None]
        self.dataset = TensorDataset(self.patterns, true.abs(), true.angle())

    def loader(self, batch_size: int, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of (diffraction, amplitude, phase), (B, 1, N, N) each."""
        return DataLoader(self.dataset, batch_size, shuffle=shuffle)


def _patches(truth: Complex64, positions_px: Float64, n_px: int) -> Complex64:
    """Cut the true patch of each position, (x, y), patch centres in whole pixels."""
    corners = positions_px.astype(int) - n_px // 2
    return np.stack([truth[y : y + n_px, x : x + n_px] for x, y in corners])


def supervised_loss(network: nn.Module, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, amplitude and phase of a batch."""
    diffraction, true_amp, true_phase = batch
    amp, phase = network(diffraction)
    return (amp - true_amp).abs().mean() + (phase - true_phase).abs().mean(), amp, phase
