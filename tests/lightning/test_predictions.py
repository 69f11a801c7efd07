"""Sources of predictions, and training that stays bit-identical."""

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.pictures.png import read_png
from tests.lightning.fitting import epochs_logged, fit, seeded_module, weights
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader

pytestmark = pytest.mark.usefixtures("plain_sheets")


def test_predictions_of_the_validation_loop_are_used_without_an_extra_pass(tracking):
    module = ForeignModule(returns_predictions=True)
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, baseline=False, strict=True)

    fit(tracking, callback, module=module, epochs=2, num_sanity_val_steps=0)

    validation_batches, training_batches = 3, 4
    assert module.calls == [("forward", n) for n in 2 * ([5] * training_batches + [5, 5, 2])]
    assert len(module.calls) == 2 * (validation_batches + training_batches)


def test_a_shuffled_validation_set_costs_one_extra_pass(tracking):
    module = ForeignModule(returns_predictions=True)
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, strict=True)

    fit(tracking, callback, module=module, epochs=1, val=loader(ForeignDataset(12), shuffle=True))

    assert module.calls[-1:] == [("forward", 12)]
    assert module.calls.count(("forward", 12)) == 1


def test_both_ways_to_get_predictions_give_the_same_pictures(tracking, new_tracking):
    other = new_tracking()
    for where, returns in ((tracking, True), (other, False)):
        callback = PtychoReconLoggingCallback(1, num_patches=2, log_stitch=True, strict=True)
        fit(where, callback, module=seeded_module(returns), epochs=2)

    assert tracking.files() == other.files()
    for name in (one for one in tracking.files() if one.endswith(("pred.png", "error.png", "gt.png"))):
        one, two = read_png(tracking.path(name)), read_png(other.path(name))
        level = (one.value_range[1] - one.value_range[0]) / 251
        np.testing.assert_allclose(one.values, two.values, atol=1.01 * level)


@pytest.mark.parametrize(
    ("val", "returns_predictions"),
    [
        pytest.param("default", True, id="predictions of the validation"),
        pytest.param("default", False, id="an extra pass"),
        pytest.param(None, False, id="training set only"),
        pytest.param(None, True, id="training set only, though validation would predict", marks=pytest.mark.slow),
    ],
)
def test_training_with_logging_is_bit_identical_to_training_without(tracking, val, returns_predictions):
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, strict=True)
    plain, _ = fit(tracking, None, epochs=3, module=seeded_module(returns_predictions), val=val, logger=False)

    logged, _ = fit(tracking, callback, epochs=3, module=seeded_module(returns_predictions), val=val)

    assert len(epochs_logged(tracking)) == 3
    assert logged.losses == plain.losses
    assert torch.equal(weights(logged), weights(plain))


class Jitter:
    """A transform with a generator of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(1)


class OwnGenerators(ForeignDataset):
    """Simulates noise with generators of its own."""

    def __init__(self, length):
        super().__init__(length)
        self.jitter, self.numpy = Jitter(), np.random.RandomState(1)
        self.python, self.torch = random.Random(1), torch.Generator().manual_seed(1)

    def __getitem__(self, i):
        fields, *rest = super().__getitem__(i)
        noise = self.jitter.generator.random() + self.numpy.rand() + self.python.random()
        noise = noise + torch.rand((), generator=self.torch)
        return fields | {"images": fields["images"] + noise}, *rest


@pytest.mark.parametrize("val", [None, "default"], ids=["training set only", "the same dataset"])
def test_generators_of_a_dataset_are_left_as_they_were(tracking, val):
    def trained(callback):
        data = loader(OwnGenerators(12))
        settings = {"module": seeded_module(False), "train": data, "logger": None if callback else False}
        return fit(tracking, callback, val=None if val is None else data, **settings)[0]

    plain, logged = trained(None), trained(PtychoReconLoggingCallback(1, num_patches=2, log_stitch=True, strict=True))

    assert len(epochs_logged(tracking)) == 2
    assert logged.losses == plain.losses


class Noisy(ForeignModule):
    """Draws from a generator of its own, also when it is evaluated."""

    def __init__(self):
        torch.manual_seed(3)
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x, *more):
        return super().forward(x + torch.rand(x.shape, generator=self.generator), *more)


def test_generators_of_a_module_are_left_as_they_were_by_an_extra_pass(tracking):
    plain, _ = fit(tracking, None, module=Noisy(), val=None, logger=False)

    logged, _ = fit(tracking, PtychoReconLoggingCallback(1, num_patches=2, strict=True), module=Noisy(), val=None)

    assert len(epochs_logged(tracking)) == 2
    assert logged.losses == plain.losses


class LogsInForward(ForeignModule):
    """Logs a metric in `forward`."""

    def forward(self, x, *more):
        found = super().forward(x, *more)
        self.log("amplitude", found[1].mean(), batch_size=len(x))
        return found


@pytest.mark.parametrize("shuffled", [True, None], ids=["shuffled validation", "training set only"])
def test_an_extra_pass_logs_none_of_the_metrics_of_the_module(tracking, shuffled):
    val = shuffled and loader(ForeignDataset(12), shuffle=True)
    torch.manual_seed(3)
    _, plain = fit(tracking, None, module=LogsInForward(), val=val, logger=False)
    torch.manual_seed(3)

    callback = PtychoReconLoggingCallback(1, num_patches=2, strict=True)
    module, logged = fit(tracking, callback, module=LogsInForward(), val=val)

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]
    assert logged.callback_metrics == plain.callback_metrics
    assert "log" not in vars(module)


class LittleMemory(ForeignModule):
    """Runs out of GPU memory with more than eight samples."""

    def forward(self, x, *more):
        if len(x) > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(x, *more)


def test_an_extra_pass_that_runs_out_of_gpu_memory_takes_smaller_batches(tracking):
    callback = PtychoReconLoggingCallback(1, num_patches=2, log_stitch=True, strict=True)

    module, _ = fit(tracking, callback, module=LittleMemory(), epochs=1, val=loader(ForeignDataset(12), shuffle=True))

    assert module.calls[-2:] == [("forward", 8), ("forward", 4)]
    assert epochs_logged(tracking) == ["epoch_01"]


class Buffered(ForeignDataset):
    """Reads its samples in two blocks, even and odd ones, into memory that it keeps."""

    def __init__(self, length):
        super().__init__(length)
        self.block, self.buffer = -1, np.empty((length // 2 + 1, *self.images.shape[1:]), np.float32)

    def __getitem__(self, i):
        if i % 2 != self.block:
            self.block, samples = i % 2, self.images[i % 2 :: 2].numpy()
            self.buffer[: len(samples)] = samples
        fields, *rest = super().__getitem__(i)
        return fields | {"images": torch.from_numpy(self.buffer[i // 2].copy())}, *rest


def test_memory_that_a_dataset_reads_into_stays_what_the_dataset_takes_it_for(tracking):
    settings = {"train": loader(Buffered(13)), "val": None}
    plain, _ = fit(tracking, None, module=seeded_module(False), logger=False, **settings)

    logged, _ = fit(tracking, PtychoReconLoggingCallback(1, fixed_indices=[1]), module=seeded_module(False), **settings)

    assert logged.losses == plain.losses


def test_modes_of_all_submodules_are_as_before(tracking):
    seen = []

    class Modes(Callback):
        def on_train_batch_start(self, trainer, module, *args):
            seen.append((module.body.training, module.frozen.training))

    fit(tracking, PtychoReconLoggingCallback(1, strict=True), epochs=1, val=None, callbacks=[Modes()])
    module, _ = fit(tracking, PtychoReconLoggingCallback(1, strict=True), epochs=2, val=None, callbacks=[Modes()])

    assert set(seen) == {(True, False)}
    assert (module.body.training, module.frozen.training) == (True, False)
