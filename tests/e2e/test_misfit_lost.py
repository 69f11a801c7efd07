"""Measured patterns that cannot be used cost the misfit, never the predictions; unknown misfits are not counted."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from recon_worker import PtychoPinnAdapter, ReconLogger, open_run
from tests.lightning.clients import DIFFRACTION, N_SAMPLES, PATCHES, POSITIONS, Container, Module
from tests.lightning.test_clients import callback_of, fit
from tests.samples import make_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]

AMP, PHASE = np.abs(PATCHES), np.angle(PATCHES).astype(np.float32)
DOUBLE = np.stack([DIFFRACTION, 2 * DIFFRACTION], axis=1)
"""Patterns of two channels."""
UNUSABLE = {
    "complex": DIFFRACTION.astype(np.complex64),
    "one sample short": DIFFRACTION[:-1],
    "flat": DIFFRACTION.reshape(N_SAMPLES, -1),
    "not square": DIFFRACTION[:, :-1],
    "words": np.full(DIFFRACTION.shape, "dark", object),
}


class Adapter:
    """An adapter without `observed`, or with one that answers as told."""

    def __init__(self, answer=None):
        self._real = PtychoPinnAdapter()
        self.sample, self.arguments = self._real.sample, self._real.arguments
        self.predictions = self._real.predictions
        if answer is not None:
            self.observed = lambda batch: answer(self._real.observed(batch))


class StrictDevice(TorchFunctionMode):
    """Refuses to move float64 to a device, as MPS does, and asynchronous copies to the CPU, which may be incomplete."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        device = [one for one in args[1:] if isinstance(one, torch.device)]
        if function is torch.Tensor.to and device and args[0].dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        if function is torch.Tensor.to and device and device[0].type == "cpu" and (kwargs or {}).get("non_blocking"):
            raise RuntimeError("An asynchronous copy to the CPU may be read before it is complete")
        return function(*args, **kwargs or {})


def log(tracking, *, epochs=1, positions=POSITIONS, amp=AMP, phase=PHASE, predicted=DIFFRACTION, observed=None, **more):
    """Log the predictions, and return the run."""
    run_id = make_run(tracking).run_id
    settings = {"positions": positions, "every_n_epochs": 1, "num_patches": 2, "strict": True}
    with ReconLogger(tracking_uri=tracking.uri, run_id=run_id, **settings | more) as recon:
        for epoch in range(1, epochs + 1):
            with recon.epoch(epoch) as shot:
                shot.add(range(N_SAMPLES), amp=amp, phase=phase, diffraction=predicted, observed=observed)
    return open_run(run_id, tracking.uri)


def complaints(caplog):
    return [one.message for one in caplog.records if "misfit" in one.message]


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("name", UNUSABLE)
def test_measured_patterns_that_cannot_be_used_cost_only_the_misfit_and_one_warning(tracking, caplog, name):
    run = log(tracking, epochs=2, observed=UNUSABLE[name])

    assert run.epochs == [1, 2]
    assert run.misfit() is None
    (line,) = complaints(caplog)
    assert "`observed` is a ndarray of shape" in line
    assert "allowed: real numbers in the shape of the predicted diffraction, (60, 1, 32, 32)" in line


@pytest.mark.parametrize("dtype", [np.longdouble, object, ">f8", np.float16])
def test_patterns_of_any_real_dtype_have_a_misfit(tracking, caplog, dtype):
    run = log(tracking, diffraction=DIFFRACTION.astype(dtype))

    assert run.misfit().r_factor.max() < 1e-3
    assert not complaints(caplog)


def test_channel_last_patterns_are_not_compared_with_the_wrong_pixels(tracking, caplog):
    two = {"positions": np.stack([POSITIONS, POSITIONS], axis=1), "predicted": DOUBLE}
    two |= {name: np.stack([one, one], axis=1) for name, one in (("amp", AMP), ("phase", PHASE))}

    assert log(tracking, **two, observed=np.moveaxis(DOUBLE, 1, -1)).misfit() is None
    assert "(60, 32, 32, 2)" in complaints(caplog)[0]


def test_a_lack_of_memory_costs_only_the_misfit(tracking, caplog, monkeypatch):
    monkeypatch.setattr(torch, "xlogy", out_of_memory)

    run = log(tracking, epochs=2, diffraction=DIFFRACTION)

    assert run.epochs == [1, 2]
    assert run.misfit() is None
    (line,) = complaints(caplog)
    assert "it cannot be computed from `diffraction` (OutOfMemoryError: CUDA out of memory)" in line


def test_patterns_move_to_the_device_of_the_predictions_as_float32_and_completely(tracking):
    with StrictDevice():
        run = log(tracking, observed=torch.from_numpy(DIFFRACTION).double())

    assert run.misfit().r_factor.max() < 1e-3


@pytest.mark.parametrize(
    "answer", [torch.Tensor.to_sparse, torch.Tensor.tolist, out_of_memory, lambda found: {"patterns": found}]
)
def test_odd_patterns_of_an_adapter_cost_at_most_the_misfit(tracking, caplog, answer):
    fit(tracking, Module(), Container(), callback_of(every_n_epochs=1, adapter=Adapter(answer)))

    assert {f"epoch_{epoch:02d}/stitched/amp_pred.png" for epoch in (1, 2)} <= tracking.files()
    has_misfit = "epoch_01/stitched/misfit.csv" in tracking.files()
    assert len(complaints(caplog)) == (not has_misfit)
    assert all("Adapter.observed" in one for one in complaints(caplog))
    assert has_misfit == (answer is torch.Tensor.tolist)


@pytest.mark.parametrize("knows", [False, True])
def test_the_extra_pass_adds_misfits_only_to_those_of_validation(tracking, knows):
    adapter = Adapter((lambda found: found) if knows else None)

    trainer = fit(tracking, Module(), Container(), callback_of(adapter=adapter), drop_last=True)  # 48 of 60 samples

    misfit = open_run(trainer.logger.run_id, tracking.uri).misfit()
    assert (None if misfit is None else misfit.samples.tolist()) == (list(range(N_SAMPLES)) if knows else None)


def test_samples_without_a_prediction_are_left_out_and_dark_ones_count_as_the_worst(tracking):
    run_id, patterns = make_run(tracking).run_id, DIFFRACTION.copy()
    patterns[50] = 0
    with ReconLogger(
        tracking_uri=tracking.uri, run_id=run_id, positions=POSITIONS, diffraction=patterns, strict=True
    ) as recon, recon.epoch(5) as shot:  # fmt: skip
        for rows, predicted in ((np.arange(40), None), (np.arange(40, N_SAMPLES), 1.1 * DIFFRACTION[40:])):
            shot.add(rows, amp=AMP[rows], phase=PHASE[rows], diffraction=predicted)

    misfit = open_run(run_id, tracking.uri).misfit()

    assert misfit.samples.tolist() == list(range(40, N_SAMPLES))
    assert misfit.samples[misfit.worst_first()[0]] == 50
    np.testing.assert_allclose(np.delete(misfit.r_factor, 10), 0.1, rtol=1e-3)
    assert np.isnan(misfit.r_factor[10])
