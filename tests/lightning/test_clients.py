"""Programs of other projects: their modules, datasets and loops are logged without an extra forward pass."""

import copy
import gc
import pickle
import weakref

import mlflow
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from recon_worker import TupleAdapter, WorkerSettings
from recon_worker.lightning import PtychoReconLoggingCallback
from recon_worker.pictures.png import read_png
from tests.lightning.clients import (
    DIFFRACTION,
    N_SAMPLES,
    POSITIONS,
    TRUTH,
    Container,
    CountIntensity,
    CountModule,
    HiddenNetwork,
    Module,
    PairModule,
    Pairs,
    loader,
)
from tests.lightning.quiet import QUIET

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]

BATCHES = [16, 16, 16, 12]
EXTRA_PASS = "Logged samples are predicted by an extra pass"
PHASE_FIRST = ("phase", "amp")
TOLD = {"positions": POSITIONS, "ground_truth": TRUTH}


def fit(tracking, module, dataset, callback, *, epochs=2, callbacks=(), logger=None, **settings):
    torch.manual_seed(1)
    trainer = Trainer(
        max_epochs=epochs,
        logger=tracking.logger() if logger is None else logger,
        callbacks=[*([callback] if callback else []), *callbacks],
        num_sanity_val_steps=0,
        **QUIET,
    )
    trainer.fit(module, loader(dataset, batch_size=30), loader(dataset, **settings))
    return trainer


def callback_of(**settings):
    defaults = {"every_n_epochs": 2, "strict": True, "stitch_weight": "uniform"}
    return PtychoReconLoggingCallback(num_patches=2, log_stitch=True, **defaults | settings)


def correlations(tracking, trainer):
    metrics = mlflow.MlflowClient(tracking.uri).get_run(trainer.logger.run_id).data.metrics
    return [metrics[f"recon/stitched/{name}_correlation"] for name in ("amp", "phase")]


PROGRAMS = {
    "container": (Module, Container, {}),
    "count-intensity, conditioned inputs": (CountModule, CountIntensity, {}),
    "channels": (PairModule, Pairs, TOLD | {"adapter": TupleAdapter(PHASE_FIRST)}),
    "two tensors": (lambda: PairModule("pair"), Pairs, TOLD | {"adapter": TupleAdapter(PHASE_FIRST)}),
    "images": (lambda: PairModule("images"), Pairs, TOLD | {"adapter": TupleAdapter(PHASE_FIRST)}),
    "complex": (lambda: PairModule("complex"), Pairs, TOLD | {"adapter": TupleAdapter(PHASE_FIRST)}),
    "a submodule predicts": (
        HiddenNetwork, Pairs, TOLD | {"adapter": TupleAdapter(PHASE_FIRST), "predictions_from": "model"},
    ),
}  # fmt: skip


SLOW = {"two tensors", "images", "complex"}
"""Forms of results that `tests/capture/test_adapters.py` covers too."""


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in PROGRAMS]
)
def test_the_stitched_object_is_the_truth_without_an_extra_pass(tracking, name, caplog):
    make, dataset, settings = PROGRAMS[name]
    module = make()

    trainer = fit(tracking, module, dataset(), callback_of(**settings))

    assert module.oracle.calls == 2 * BATCHES
    assert min(correlations(tracking, trainer)) > 0.99
    assert {f"epoch_02/stitched/{q}_{kind}.png" for q in ("amp", "phase") for kind in ("pred", "gt", "error")} <= set(
        tracking.files()
    )
    assert "epoch_02/patch_00/phase_error.png" in tracking.files()
    assert EXTRA_PASS not in caplog.text


@pytest.mark.parametrize("fault", ["axes", "sign"])
def test_swapped_axes_and_flipped_signs_show(tracking, fault):
    dataset = Container(truth=None)
    offsets = dataset.container.global_offsets
    dataset.container.global_offsets = offsets[:, :, ::-1] if fault == "axes" else 120 - offsets

    trainer = fit(tracking, Module(), dataset, callback_of(arrays="npz"))

    with np.load(tracking.path("epoch_02/stitched/arrays.npz")) as arrays:
        object_, coverage = arrays["object"], arrays["coverage"]
    side = min(object_.shape[0], 90), min(object_.shape[1], 76)
    a, b = object_[: side[0], : side[1]], TRUTH[8 : 8 + side[0], 8 : 8 + side[1]]
    seen = coverage[: side[0], : side[1]] > 0
    assert trainer.current_epoch == 2
    assert np.corrcoef(np.angle(a[seen]), np.angle(b[seen]))[0, 1] < 0.5


def test_pixels_equal_those_of_a_module_that_returns_its_predictions(tracking, new_tracking):
    other = new_tracking()

    fit(tracking, Module(), Container(), callback_of())
    fit(other, Module(returns=True), Container(), callback_of())

    assert tracking.pictures()
    assert tracking.pictures() == other.pictures()


def test_intensities_are_shown_as_amplitudes(tracking, new_tracking):
    other = new_tracking()

    fit(tracking, CountModule(), CountIntensity(), callback_of())
    fit(other, Module(), Container(), callback_of())

    for kind in ("obs", "pred"):
        shown, expected = (read_png(one.path(f"epoch_02/patch_00/diff_{kind}_logI.png")) for one in (tracking, other))
        largest = DIFFRACTION[0].max() ** 2
        assert shown.value_range[1] == pytest.approx(np.log1p(CountIntensity.scale * largest), abs=0.2)
        assert expected.value_range[1] == pytest.approx(np.log1p(largest), abs=0.2)
    error = read_png(tracking.path("epoch_02/patch_00/diff_error_logI.png"))
    assert np.abs(error.values).max() < 0.05


def test_an_extra_pass_over_count_intensity_data_has_the_scales_of_the_training(tracking):
    fit(tracking, CountModule(), CountIntensity(), callback_of(), shuffle=True)

    error = read_png(tracking.path("epoch_02/patch_00/diff_error_logI.png"))
    assert np.abs(error.values).max() < 0.05


def test_an_intensity_setting_wins_over_the_fields(tracking):
    fit(tracking, CountModule(), CountIntensity(), callback_of(intensity=False))

    shown = read_png(tracking.path("epoch_02/patch_00/diff_obs_logI.png"))
    assert shown.value_range[1] > 1.5 * np.log1p(CountIntensity.scale * DIFFRACTION[0].max() ** 2)


@pytest.mark.parametrize("calls", [0, 2])
def test_other_numbers_of_calls_cost_an_extra_pass_and_one_line(tracking, calls, caplog):
    class Odd(Module):
        def validation_step(self, batch, batch_idx):
            if calls:
                super().validation_step(batch, batch_idx)

    module = Odd(calls=calls)

    trainer = fit(tracking, module, Container(), callback_of(every_n_epochs=1), epochs=2)

    extra = [32, 28]
    assert module.oracle.calls == 2 * ([size for size in BATCHES for _ in range(calls)] + extra)
    (line,) = [record.message for record in caplog.records if EXTRA_PASS in record.message]
    assert "predictions_from" in line
    assert (f"{calls} times per batch" in line) == (calls > 0)
    assert min(correlations(tracking, trainer)) > 0.99


def test_an_unknown_submodule_is_an_error_before_the_first_step(tracking):
    module = Module()

    with pytest.raises(ValueError, match=r"predictions_from is 'network'.*\['oracle', 'dropout'\]"):
        fit(tracking, module, Container(), callback_of(predictions_from="network", strict=False))

    assert module.losses == []


class _Watcher(Callback):
    """Looks at a module during and after a due validation."""

    def __init__(self):
        self.hooks, self.kept = [], []

    def on_validation_batch_start(self, trainer, module, *args):
        self.hooks.append(len(module._forward_hooks))

    def on_train_batch_start(self, trainer, module, *args):
        gc.collect()
        self.kept.append(sum(one() is not None for one in module.seen))


def test_hooks_leave_no_trace_and_keep_no_tensor(tracking):
    class Remembers(Module):
        def forward(self, *args):
            outputs = super().forward(*args)
            self.seen += [weakref.ref(one) for one in outputs]
            return outputs

    module, watcher = Remembers(), _Watcher()
    module.seen = []
    names = set(vars(module)) | {"_trainer"}

    fit(tracking, module, Container(), callback_of(every_n_epochs=1), epochs=2, callbacks=[watcher])

    assert watcher.hooks == [1] * 2 * len(BATCHES)
    assert watcher.kept == [0] * len(watcher.kept)
    assert len(module._forward_hooks) == 0
    module.seen = []
    assert set(vars(copy.deepcopy(module))) <= names | {"_jit_internal"} | set(vars(module))
    assert set(module.state_dict()) == {"oracle.weight"}
    assert pickle.loads(pickle.dumps(Module())).state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize("worker", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["inline", "worker"])
def test_training_stays_bit_identical(tracking, tmp_path, worker):
    settings = {"worker": WorkerSettings(spool_dir=tmp_path / "spool")} if worker else {}
    plain, logged = Module(), Module()

    fit(tracking, plain, Container(), None, logger=False)
    fit(tracking, logged, Container(), callback_of(every_n_epochs=1, **settings))

    assert len(plain.losses) == 2 * 2
    assert logged.losses == plain.losses
    assert torch.equal(logged.oracle.weight, plain.oracle.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": POSITIONS[:-1]}, f"{N_SAMPLES - 1}"),
        ({"positions": POSITIONS * 1e-8}, "pixel"),
        ({"positions": POSITIONS[:, ::-1], "ground_truth": TRUTH}, "fit with x and y swapped"),
        ({"positions": POSITIONS, "ground_truth": TRUTH.real}, "complex"),
    ],
)
def test_wrong_positions_and_truths_are_errors_before_the_first_step(tracking, settings, message):
    module = PairModule()

    with pytest.raises(ValueError, match=message):
        fit(tracking, module, Pairs(), callback_of(strict=False, adapter=TupleAdapter(PHASE_FIRST), **settings))

    assert module.losses == []
