"""Copies predictions from the device of a network into the arrays of a snapshot."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from recon_worker.snapshot.records import SnapshotArrays
from recon_worker.system.messages import message_log

_log = message_log(__name__)

RowNumbers = slice | NDArray[np.int64]
Part = tuple[slice | int | Tensor, ...]
"""Index of the part to copy from a batch's (B, C, N, N) predictions."""
_LARGEST_STAGE_BYTES = 1 << 28
"""Maximum device memory for staging. Larger snapshots are copied to the CPU batch by batch."""


def as_tensor(values: Any) -> Tensor:  # noqa: ANN401 - a tensor or array-like
    """Return numbers as a tensor; it shares the memory of an array unless that is reversed, read-only or byte-swapped.

    Raises:
        TypeError: They are not numbers.
    """
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    usable = array.dtype.isnative and array.flags.writeable and min(array.strides, default=0) >= 0
    return from_numpy(array if usable else array.astype(array.dtype.newbyteorder("=")))


class ArrayTensors(NamedTuple):
    """Tensors with the shapes of `SnapshotArrays`, to which predictions are copied."""

    fixed_amp: Tensor
    fixed_phase: Tensor
    fixed_diffraction: Tensor
    stitch_amp: Tensor
    stitch_phase: Tensor
    misfit: Tensor


class Copier:
    """Copies predictions into the arrays of snapshots of one layout.

    From the CPU, each batch is copied directly. On a GPU, each batch is gathered in a staging tensor on the device, one
    kernel per array, and `finish` transfers them all at once: one transfer per batch would take ten times as long.

    Args:
        device: Device of the network.
        cuda: `torch.cuda`, or a substitute with its interface.
        staged: Whether to use staging; None: on all devices except the CPU.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda, *, staged: bool | None = None) -> None:  # noqa: ANN401 - a module
        self.device, self._cuda = device, cuda
        self._staged = device.type != "cpu" if staged is None else staged
        self._stage: ArrayTensors | None = None
        self._locked: dict[int, SnapshotArrays] = {}

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Page-lock a snapshot's memory, once. Otherwise CUDA copies through an internal buffer and blocks."""
        address = arrays.fixed_amp.ctypes.data
        if self.device.type != "cuda" or address in self._locked:
            return
        error = int(self._cuda.cudart().cudaHostRegister(address, nbytes, 0))
        if error:
            _log.debug("Memory of the queue cannot be page-locked (CUDA error %d): copies take longer.", error)
        else:
            self._locked[address] = arrays  # keeps the memory alive while it is locked

    @torch.inference_mode(mode=False)  # tensors made in that mode could not be changed outside it
    def tensors_of(self, arrays: SnapshotArrays) -> ArrayTensors:
        """Return the tensors to copy to: the staging tensors, which all snapshots share, or the arrays themselves."""
        host = ArrayTensors(*(from_numpy(getattr(arrays, name)) for name in ArrayTensors._fields))
        if not self._staged or sum(one.nbytes for one in host) > _LARGEST_STAGE_BYTES:
            return host
        if self._stage is None or [one.shape for one in self._stage] != [one.shape for one in host]:
            self._stage = ArrayTensors(*(torch.empty_like(one, device=self.device) for one in host))
        return self._stage

    def finish(self, arrays: SnapshotArrays, tensors: ArrayTensors, fixed: RowNumbers, stitched: RowNumbers) -> None:
        """Complete all copies: after this call these rows of the arrays hold the values."""
        if tensors is self._stage:
            for name, staged in tensors._asdict().items():
                rows = fixed if name.startswith("fixed") else stitched
                to = from_numpy(getattr(arrays, name))
                if isinstance(rows, slice):
                    to[rows].copy_(staged[rows], non_blocking=True)
                else:
                    numbers = from_numpy(rows)
                    to[numbers] = staged[numbers.to(self.device)].cpu()
        if self.device.type == "cuda":
            self._cuda.current_stream(self.device).synchronize()

    def close(self) -> None:
        """Unlock the pages, and free the staging tensors."""
        self._stage = None
        for address in self._locked:
            self._cuda.cudart().cudaHostUnregister(address)
        self._locked.clear()
