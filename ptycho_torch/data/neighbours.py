"""Training order that keeps neighbours on the object together."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from recon_worker.snapshot.array_types import Float64


def neighbour_groups(positions_px: Float64, group_size: int, angle_rad: float) -> list[NDArray[np.int64]]:
    """Divide all samples into compact groups by repeatedly halving the field along its longer side.

    Args:
        positions_px: (n, 2).
        group_size: Samples per group; the last group holds the remainder.
        angle_rad: Rotation of the field before halving; different angles yield different groups.

    Returns:
        Sample indices per group; each sample is in exactly one group.
    """
    turn = np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])
    turned = positions_px @ turn

    def halve(indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        groups = math.ceil(len(indices) / group_size)
        if groups <= 1:
            return [indices]
        axis = int(np.argmax(np.ptp(turned[indices], axis=0)))
        ordered, first = indices[np.argsort(turned[indices, axis], kind="stable")], groups // 2 * group_size
        return halve(ordered[:first]) + halve(ordered[first:])

    return halve(np.arange(len(positions_px)))


class NeighbourSampler(Sampler[int]):
    """Yields every sample once per epoch, group by group; groups and their order change with each epoch."""

    def __init__(self, positions_px: Float64, group_size: int, generator: torch.Generator) -> None:
        """Arguments as in `neighbour_groups`; `generator` draws angles and order."""
        self._positions_px, self._group_size, self._generator = positions_px, group_size, generator

    def __len__(self) -> int:
        return len(self._positions_px)

    def __iter__(self) -> Iterator[int]:
        angle = float(torch.rand((), generator=self._generator)) * 2 * np.pi
        *whole, last = neighbour_groups(self._positions_px, self._group_size, angle)
        for group in torch.randperm(len(whole), generator=self._generator).tolist():
            yield from whole[group].tolist()
        yield from last.tolist()  # last, as it may be short: no batch starts inside a group
