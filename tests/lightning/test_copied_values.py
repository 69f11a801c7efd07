"""Predictions of every dtype and layout arrive unchanged, and are rendered alike inline and by the worker."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.settings import WorkerSettings
from tests.lightning.fitting import fit
from tests.lightning.foreign import N_PX, ForeignDataset, ForeignModule, loader

pytestmark = pytest.mark.timeout(120)

SAMPLES, BATCH, FIXED = 12, 5, (1, 7)
CROP = slice(N_PX // 4, N_PX // 4 + N_PX // 2)
SPECIALS = ((), (float("nan"),), (float("nan"), float("inf"), 0.0))
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second": lambda x: torch.stack([x, torch.zeros_like(x)], -1).flatten(-2)[..., ::2],
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "read only part": lambda x: torch.nn.functional.pad(x, (3, 5, 2, 1))[..., 2:-1, 3:-5],
}


@dataclass(frozen=True)
class Epoch:
    """Predictions of an epoch."""

    dtype: torch.dtype
    layout: str
    seed: int
    specials: tuple[float, ...]

    def values(self, name):
        """(SAMPLES, 1, N, N) of the epoch's dtype."""
        drawn = np.random.default_rng([self.seed, len(name)])
        values = drawn.uniform(-3 if name == "phase" else 0, 3, (SAMPLES, 1, N_PX, N_PX))
        for special in self.specials:
            values[drawn.random(values.shape) < 0.02] = special
        return torch.from_numpy(values).to(self.dtype)


EPOCHS = st.builds(
    Epoch,
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**32 - 1),
    specials=st.sampled_from(SPECIALS),
)


class Module(ForeignModule):
    """Predicts the drawn values."""

    def __init__(self, epochs):
        super().__init__()
        self.drawn = epochs

    def validation_step(self, batch, batch_idx):
        epoch = self.drawn[self.trainer.current_epoch]
        rows = slice(BATCH * batch_idx, BATCH * (batch_idx + 1))
        names = ("amp", "phase", "pred_diffraction")
        return {name: LAYOUTS[epoch.layout](epoch.values(name)[rows]) for name in names}


class Spy(PtychoReconLoggingCallback):
    """Keeps the copied values."""

    def _submit(self, run, *args):
        self.copied.append({k: v.copy() for k, v in vars(run.capture.arrays).items() if isinstance(v, np.ndarray)})
        super()._submit(run, *args)


def copied(tracking, epochs, labels, worker):
    spy = Spy(1, fixed_indices=FIXED, log_stitch=True, baseline=False, worker=worker, strict=True)
    spy.copied = []
    fit(tracking, spy, epochs=len(epochs), module=Module(epochs), val=loader(ForeignDataset(SAMPLES, labels=labels)))
    return spy.copied


@pytest.mark.slow
def test_predictions_of_every_type_and_layout_are_copied_and_drawn_alike_inline_and_by_the_worker(
    new_tracking, tmp_path
):
    pairs = zip(LAYOUTS, itertools.cycle(DTYPES), itertools.cycle(SPECIALS), strict=False)
    epochs = [Epoch(dtype, layout, seed, specials) for seed, (layout, dtype, specials) in enumerate(pairs)]
    assert {epoch.dtype for epoch in epochs} == {*DTYPES}

    assert_alike(new_tracking, tmp_path, epochs, "real")


@pytest.mark.slow
@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epochs=st.lists(EPOCHS, min_size=3, max_size=3), labels=st.sampled_from(["real", None]))
def test_predictions_of_any_type_layout_and_value_are_copied_and_drawn_alike(new_tracking, tmp_path, epochs, labels):
    assert_alike(new_tracking, tmp_path, epochs, labels)


def assert_alike(new_tracking, tmp_path, epochs, labels):
    inline, by_worker = new_tracking(), new_tracking()
    worker = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60)
    found = copied(inline, epochs, labels, None), copied(by_worker, epochs, labels, worker)

    for epoch, *both in zip(epochs, *found, strict=True):
        amp, phase = (epoch.values(name).float().numpy() for name in ("amp", "phase"))
        diffraction = epoch.values("pred_diffraction").float().numpy()
        for arrays in both:
            np.testing.assert_array_equal(arrays["fixed_amp"], amp[[*FIXED], 0])
            np.testing.assert_array_equal(arrays["fixed_diffraction"], diffraction[[*FIXED], 0])
            np.testing.assert_array_equal(arrays["stitch_amp"], amp[:, :, CROP, CROP])
            np.testing.assert_array_equal(arrays["stitch_phase"], phase[:, :, CROP, CROP])
    assert inline.files() | {"recon_log/events.csv"} == by_worker.files()
    assert all(inline.path(name).read_bytes() == by_worker.path(name).read_bytes() for name in inline.files())
