"""Copies from a GPU run in order, on a separate stream. Fake streams record the calls."""

import contextlib

import pytest
import torch

from recon_worker.capture.copying import Copier
from recon_worker.snapshot.records import SnapshotLayout

LAYOUT = SnapshotLayout(n_fixed=1, patch_px=8, n_stitch=2, crop_px=4)


class FakeStream:
    def __init__(self, name, calls):
        self.name, self._calls = name, calls

    def wait_stream(self, other):
        self._calls.append(f"{self.name} waits for {other.name}")

    def synchronize(self):
        self._calls.append(f"wait for {self.name}")


class FakeCuda:
    """The part of `torch.cuda` that the copier uses; `refuse`: error code of page-locking."""

    def __init__(self, refuse=0):
        self.calls, self._refuse = [], refuse
        self._current = FakeStream("computing", self.calls)

    def Stream(self, device):  # noqa: N802 - the name in torch.cuda
        return FakeStream("side", self.calls)

    def current_stream(self, device):
        return self._current

    @contextlib.contextmanager
    def stream(self, stream):
        self.calls.append(f"on {stream.name}")
        yield
        self.calls.append("leave")

    def cudart(self):
        return self

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802
        self.calls.append(("lock", address, nbytes))
        return self._refuse

    def cudaHostUnregister(self, address):  # noqa: N802
        self.calls.append(("unlock", address))


class FakeGpuTensor(torch.Tensor):
    """A CPU tensor that records the streams for which its memory is kept."""

    kept_for = ()

    def record_stream(self, stream):
        FakeGpuTensor.kept_for = (*FakeGpuTensor.kept_for, stream.name)


def test_a_copy_waits_for_the_computing_and_runs_beside_it():
    cuda, target = FakeCuda(), torch.zeros(2)
    copier = Copier(torch.device("cuda"), cuda)
    source = torch.arange(3, dtype=torch.float16).as_subclass(FakeGpuTensor)

    copier.copy(target, source, (slice(1, 3),))
    copier.wait()

    assert cuda.calls == ["side waits for computing", "on side", "leave", "wait for side"]
    assert target.tolist() == [1, 2]
    assert FakeGpuTensor.kept_for == ("side",)


def test_the_memory_of_a_slot_is_locked_once_and_unlocked_at_the_end():
    cuda, arrays = FakeCuda(), LAYOUT.allocate()
    copier = Copier(torch.device("cuda"), cuda)
    address = arrays.fixed_amp.ctypes.data

    for _ in range(2):
        copier.prepare(arrays, LAYOUT.nbytes)
    copier.close()

    assert cuda.calls == [("lock", address, LAYOUT.nbytes), ("unlock", address)]


def test_memory_that_cannot_be_locked_is_used_as_it_is(caplog):
    cuda, arrays = FakeCuda(refuse=2), LAYOUT.allocate()
    copier = Copier(torch.device("cuda"), cuda)

    with caplog.at_level("INFO"):
        copier.prepare(arrays, LAYOUT.nbytes)
    copier.close()

    assert "CUDA error 2" in caplog.text
    assert [call[0] for call in cuda.calls] == ["lock"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_real_gpu_the_values_arrive():
    device, arrays = torch.device("cuda"), LAYOUT.allocate()
    copier = Copier(device)
    source = torch.rand(2, 1, 8, 8, device=device)

    copier.prepare(arrays, LAYOUT.nbytes)
    copier.copy(torch.from_numpy(arrays.stitch_amp), source, (slice(None), slice(None), slice(2, 6), slice(2, 6)))
    copier.wait()

    assert torch.equal(torch.from_numpy(arrays.stitch_amp), source[:, :, 2:6, 2:6].cpu())
    copier.close()
