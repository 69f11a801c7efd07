"""How predictions get from the device of a network into the arrays of a snapshot."""

from typing import Any

import torch
from torch import Tensor

from recon_worker.snapshot.records import SnapshotArrays
from recon_worker.system.messages import message_log

_log = message_log(__name__)

Part = tuple[slice | int, ...]
"""Index of the part of a batch's (B, C, N, N) prediction that is copied."""


class HostCopier:
    """Copies predictions into a snapshot at once."""

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Nothing to prepare."""

    def copy(self, target: Tensor, source: Tensor, part: Part) -> None:
        """Copy `source[part]`, converting to the target's dtype."""
        target.copy_(source.detach()[part])

    def wait(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing to give back."""


class SideStreamCopier:
    """Copies predictions out of a GPU on a stream of its own, beside the computing, into page-locked memory.

    Args:
        device: The GPU.
        cuda: `torch.cuda`, or what behaves like it.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:  # noqa: ANN401 - a module
        self._cuda, self._device, self._stream = cuda, device, cuda.Stream(device)
        self._locked: dict[int, SnapshotArrays] = {}

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Lock the pages of a snapshot's memory, once: else CUDA copies through a buffer of its own, and waits."""
        address = arrays.fixed_amp.ctypes.data
        if address in self._locked:
            return
        error = int(self._cuda.cudart().cudaHostRegister(address, nbytes, 0))
        if error:
            _log.info("Memory of the queue cannot be page-locked (CUDA error %d): copies take longer.", error)
        else:
            self._locked[address] = arrays  # keeps the memory while it is locked

    def copy(self, target: Tensor, source: Tensor, part: Part) -> None:
        """Copy `source[part]`, converting to the target's dtype; done when `wait` returns."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))  # the prediction must be there
        with self._cuda.stream(self._stream):
            target.copy_(source.detach()[part].to(target.dtype), non_blocking=True)
        source.record_stream(self._stream)  # its memory is not reused before the copy is done

    def wait(self) -> None:
        """Wait for all copies."""
        self._stream.synchronize()

    def close(self) -> None:
        """Unlock the pages."""
        for address in self._locked:
            self._cuda.cudart().cudaHostUnregister(address)
        self._locked.clear()


Copier = HostCopier | SideStreamCopier


def copier_for(device: torch.device) -> Copier:
    """What copies predictions from a device."""
    return SideStreamCopier(device) if device.type == "cuda" else HostCopier()
