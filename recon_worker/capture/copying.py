"""Copies predictions from the device of a network into the arrays of a snapshot."""

from typing import Any

import torch
from torch import Tensor

from recon_worker.snapshot.records import SnapshotArrays
from recon_worker.system.messages import message_log

_log = message_log(__name__)

Part = tuple[slice | int, ...]
"""Index of the part to copy from a batch's (B, C, N, N) predictions."""


class Copier:
    """Copies predictions: from the CPU synchronously, from a GPU on a separate stream into page-locked memory.

    Args:
        device: Device of the network.
        cuda: `torch.cuda`, or a substitute with its interface.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:  # noqa: ANN401 - a module
        self._cuda, self._device = cuda, device
        self._stream = cuda.Stream(device) if device.type == "cuda" else None
        self._locked: dict[int, SnapshotArrays] = {}

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Page-lock a snapshot's memory, once. Otherwise CUDA copies through an internal buffer and blocks."""
        address = arrays.fixed_amp.ctypes.data
        if self._stream is None or address in self._locked:
            return
        error = int(self._cuda.cudart().cudaHostRegister(address, nbytes, 0))
        if error:
            _log.info("Memory of the queue cannot be page-locked (CUDA error %d): copies take longer.", error)
        else:
            self._locked[address] = arrays  # keeps the memory alive while it is locked

    def copy(self, target: Tensor, source: Tensor, part: Part) -> None:
        """Copy `source[part]`, converted to the target's dtype. The copy is complete when `wait` returns."""
        if self._stream is None:
            target.copy_(source.detach()[part])
            return
        self._stream.wait_stream(self._cuda.current_stream(self._device))  # the prediction must be complete
        with self._cuda.stream(self._stream):
            target.copy_(source.detach()[part].to(target.dtype), non_blocking=True)
        source.record_stream(self._stream)  # its memory is not reused before the copy is complete

    def wait(self) -> None:
        """Wait for all copies."""
        if self._stream is not None:
            self._stream.synchronize()

    def close(self) -> None:
        """Unlock the pages."""
        for address in self._locked:
            self._cuda.cudart().cudaHostUnregister(address)
        self._locked.clear()
