"""The module's warm-up, and its warning if it learns nothing."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, Dataset

from ptycho_torch.model.lightning_module import PtychoLightningModule

pytestmark = pytest.mark.timeout(120)
N = 64


class Patterns(Dataset):
    """Random amplitudes, without physics to learn."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        images = torch.rand(1, N, N, generator=torch.Generator().manual_seed(i))
        one = torch.ones(1, 1, 1)
        fields = {"images": images, "coords_relative": torch.zeros(1, 1, 2), "rms_scaling_constant": one}
        return (
            fields | {"physics_scaling_constant": one},
            torch.ones(1, 1, N, N, dtype=torch.complex64),
            torch.tensor(1.0),
        )


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def _train(module, tmp_path, epochs=3, *callbacks):
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, DataLoader(Patterns(), batch_size=4))


def _module(**settings):
    torch.manual_seed(0)
    return PtychoLightningModule(n_px=N, n_filters_scale=1, **settings)


class Same(torch.nn.Module):
    """Predicts the same patch for every input; `different`: plus a part that depends on the input."""

    def __init__(self, different, phase=0.0):
        super().__init__()
        self.amp, self.different, self.phase = torch.nn.Parameter(torch.rand(1, N, N)), different, phase

    def forward(self, x):
        return self.amp.expand_as(x) + self.different * x, torch.full_like(x, self.phase)


def test_the_step_size_rises_linearly_to_the_learning_rate(tmp_path):
    rates = Rates()
    _train(_module(learning_rate=1e-2, warmup_steps=4), tmp_path, 3, rates)

    assert rates.seen == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_without_warm_up_the_first_step_is_a_whole_one(tmp_path):
    rates = Rates()
    _train(_module(learning_rate=1e-2, warmup_steps=0), tmp_path, 1, rates)

    assert rates.seen == pytest.approx([0.01, 0.01])


def test_the_step_size_falls_along_a_cosine_to_a_fiftieth(tmp_path):
    rates = Rates()
    _train(_module(learning_rate=1e-2, warmup_steps=0, lr_schedule="cosine"), tmp_path, 4, rates)

    assert rates.seen[0] == pytest.approx(1e-2)
    assert rates.seen[4] == pytest.approx(0.51e-2)  # half of eight steps
    assert 2e-4 < rates.seen[7] < 6e-4
    assert rates.seen == sorted(rates.seen, reverse=True)


@pytest.mark.parametrize(("different", "epochs", "lines"), [(0.0, 5, 1), (0.5, 5, 0), (0.0, 2, 0)])
def test_one_patch_for_all_patterns_is_named_once_after_three_epochs(tmp_path, caplog, different, epochs, lines):
    module = _module()
    module.network = Same(different)
    _train(module, tmp_path, epochs)

    said = [record.message for record in caplog.records if "same patch for all patterns" in record.message]
    assert len(said) == lines
    assert not said or "After 3 epochs" in said[0]
    assert not said or "another seed" in said[0]


@pytest.mark.parametrize(("phase", "lines"), [(-3.14, 1), (3.14, 1), (2.5, 0)])
def test_a_saturated_phase_is_named_once(tmp_path, caplog, phase, lines):
    module = _module()
    module.network = Same(0.5, phase)
    _train(module, tmp_path, 5)

    said = [record.message for record in caplog.records if record.message.startswith("After 3 epochs")]
    assert len(said) == lines
    assert not said or "phase of +pi or -pi in 100 % of the pixels" in said[0]


def test_neighbours_at_one_place_predict_one_pattern_together():
    module, images = _module(merge_neighbours=2), torch.rand(4, 1, N, N, generator=torch.Generator().manual_seed(0))
    one, probe = torch.ones(4, 1, 1, 1), torch.ones(4, 1, 1, N, N, dtype=torch.complex64)
    centres = torch.tensor([[10.0, 10.0]] * 2 + [[90.0, 40.0]] * 2).reshape(4, 1, 1, 2)
    with torch.no_grad():
        alone, amp, _ = module(images, torch.zeros(4, 1, 1, 2), probe, one, one)
        merged, amp_merged, _ = module(images, torch.zeros(4, 1, 1, 2), probe, one, one, None, centres)

    torch.testing.assert_close(merged[0], merged[1])
    torch.testing.assert_close(merged[2], merged[3])
    assert (merged[0] - merged[2]).abs().max() > 1e-3
    assert (merged - alone).abs().max() > 1e-3
    assert torch.equal(amp, amp_merged)  # the logged amplitude is the network's
