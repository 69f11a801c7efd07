"""Copies from a device, directly or through staging tensors, and page-locked memory."""

import numpy as np
import pytest
import torch

from recon_worker.capture.adapters import Predictions
from recon_worker.capture.capture import Capture
from recon_worker.capture.copying import Copier
from recon_worker.capture.plan import CapturePlan
from recon_worker.snapshot.records import SnapshotLayout

LAYOUT = SnapshotLayout(n_fixed=2, patch_px=8, n_stitch=6, channels=2, crop_px=4)
PLAN = CapturePlan(fixed_indices=(4, 1), layout=LAYOUT)
BATCHES = {
    "in order": [[0, 1, 2, 3], [4, 5, 6]],
    "every other": [[0, 2, 4], [1, 3, 5]],
    "shuffled": [[3, 0, 5], [4, 1, 2]],
}


class FakeCuda:
    """The part of `torch.cuda` that the copier uses; `refuse`: error code of page-locking."""

    def __init__(self, refuse=0):
        self.calls, self._refuse = [], refuse

    def current_stream(self, device):
        return self

    def synchronize(self):
        self.calls.append("wait")

    def cudart(self):
        return self

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802
        self.calls.append(("lock", address, nbytes))
        return self._refuse

    def cudaHostUnregister(self, address):  # noqa: N802
        self.calls.append(("unlock", address))


def _predictions(indices):
    """Return predictions that differ for each sample."""
    numbers = torch.tensor(indices)[:, None, None, None]
    pixels = torch.arange(128.0).view(1, 2, 8, 8)
    return Predictions(1000.0 * numbers + pixels, -1000.0 * numbers - pixels, 7 + 1000.0 * numbers + pixels)


@pytest.mark.parametrize("order", BATCHES)
@pytest.mark.parametrize("staged", [False, True], ids=["direct", "staged"])
@pytest.mark.parametrize("known", [False, True], ids=["routed when added", "routed before"])
def test_every_value_arrives_in_its_row(order, staged, known):
    arrays, batches = LAYOUT.allocate(), BATCHES[order]
    routes = tuple(PLAN.route(batch) for batch in batches)
    capture = Capture(PLAN, arrays, Copier(torch.device("cpu"), staged=staged), routes if known else ())

    for number, batch in enumerate(batches):
        target = capture.targets[number] if known else capture.target(routes[number])
        capture.add(target, _predictions(batch))
    capture.finish()

    expected = _predictions(range(6))
    np.testing.assert_array_equal(arrays.stitch_amp, expected.amp[:, :, 2:6, 2:6])
    np.testing.assert_array_equal(arrays.stitch_phase, expected.phase[:, :, 2:6, 2:6])
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(arrays, f"fixed_{name}"), values[[4, 1], 0])
    assert arrays.stitch_filled.all()
    assert arrays.fixed_filled.all()


@pytest.mark.parametrize("staged", [False, True])
def test_rows_of_other_ranks_survive_a_second_finish(staged):
    arrays = LAYOUT.allocate()
    capture = Capture(PLAN, arrays, Copier(torch.device("cpu"), staged=staged))
    capture.add(capture.target(PLAN.route([0, 2])), _predictions([0, 2]))
    capture.finish()
    arrays.stitch_amp[1] = 5  # gathered from another rank

    capture.add(capture.target(PLAN.route([3])), _predictions([3]))
    capture.finish()

    assert (arrays.stitch_amp[1] == 5).all()
    np.testing.assert_array_equal(arrays.stitch_filled, [True, False, True, True, False, False])


def test_of_a_sample_given_twice_the_last_prediction_counts():
    arrays = LAYOUT.allocate()
    capture = Capture(PLAN, arrays, Copier(torch.device("cpu")))
    predictions = _predictions([1, 1])
    predictions.amp[1] = 9

    capture.add(capture.target(PLAN.route([1, 1])), predictions)
    capture.finish()

    assert (arrays.stitch_amp[1] == 9).all()
    assert (arrays.fixed_amp[1] == 9).all()


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (3, 2, 16, 16), (3, 2, 8, 1)])
def test_predictions_of_another_shape_are_refused(shape):
    capture = Capture(PLAN, LAYOUT.allocate(), Copier(torch.device("cpu")))

    with pytest.raises(ValueError, match=r"predictions have the shape \(3, .* expected: \(B, 2, 8, 8\)"):
        capture.add(capture.target(PLAN.route([0, 2, 3])), Predictions(torch.ones(shape), torch.ones(shape)))


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

    with caplog.at_level("DEBUG", "recon_worker"):
        copier.prepare(arrays, LAYOUT.nbytes)
    copier.close()

    assert "CUDA error 2" in caplog.text
    assert [call[0] for call in cuda.calls] == ["lock"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_real_gpu_the_values_arrive():
    device, arrays = torch.device("cuda"), LAYOUT.allocate()
    copier = Copier(device)
    copier.prepare(arrays, LAYOUT.nbytes)
    capture = Capture(PLAN, arrays, copier)

    capture.add(capture.target(PLAN.route(range(6))), Predictions(*(one.to(device) for one in _predictions(range(6)))))
    capture.finish()
    copier.close()

    np.testing.assert_array_equal(arrays.stitch_amp, _predictions(range(6)).amp[:, :, 2:6, 2:6])
