"""Networks of the benchmarks: a small one for CPUs, and that of ptycho_torch."""

import os

import torch
import torch.utils.deterministic
from torch import Tensor, nn

from trainings.case import Network

_WIDTH, _HIDDEN_LAYERS = 16, 1


class SmallNetwork(nn.Module):
    """Convolutions at full resolution, with the outputs of `ObjectNetwork`.

    Args:
        width: Channels of the hidden layers.
        hidden_layers: Number of 3 x 3 convolutions between the hidden layers.
    """

    def __init__(self, width: int = _WIDTH, hidden_layers: int = _HIDDEN_LAYERS) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(hidden_layers):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude and phase, (B, 1, N, N) each."""
        out = self.layers(x)
        return torch.sigmoid(out[:, :1]), torch.tanh(out[:, 1:])


def make_network(kind: Network, n_px: int) -> nn.Module:
    """Return an untrained network."""
    if kind == "small":
        return SmallNetwork()
    from ptycho_torch.model.network import ObjectNetwork

    return ObjectNetwork(n_px, 1, 1, probe_big=True)


def use_deterministic_kernels() -> None:
    """Make training on a GPU repeatable where torch has deterministic kernels. Call this before the first kernel."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS requires it
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling memory would launch extra kernels, which would distort the figures.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
