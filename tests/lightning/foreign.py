"""A LightningModule and a dataset of another project, which follow only the PtychoPINN conventions.

Dropout is on, the probe of an item has rank 4, and `validation_step` returns nothing by default.
"""

import torch
from lightning.pytorch import LightningModule
from tensordict import TensorDict
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

N_PX = 16


class ForeignDataset(Dataset):
    """Random diffraction; each access draws from the global random generator."""

    def __init__(self, length=24, channels=1, *, as_tensordict=False, labels="real", positions=True, intensity=False):
        g = torch.Generator().manual_seed(length)
        self.images = torch.rand(length, channels, N_PX, N_PX, generator=g)
        self.amp = torch.rand(length, channels, N_PX, N_PX, generator=g) * 0.5 + 0.4
        self.phase = torch.rand(length, channels, N_PX, N_PX, generator=g) - 0.5
        self.centres = torch.rand(length, channels, 1, 2, generator=g) * 20 + 10
        self.as_tensordict, self.labels, self.positions, self.intensity = as_tensordict, labels, positions, intensity
        self.probe = torch.ones(channels, 1, N_PX, N_PX, dtype=torch.complex64)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        torch.rand(3)  # like an augmentation that draws from the global generator
        mean = self.centres[i].mean(0, keepdim=True)
        fields = {
            "images": self.images[i],
            "coords_relative": -(self.centres[i] - mean),
            "rms_input_scale" if self.intensity else "rms_scaling_constant": torch.ones(1, 1, 1),
            "experiment_id": torch.tensor(0),
        }
        if not self.intensity:
            fields |= {"observed_images": self.images[i], "physics_scaling_constant": torch.ones(1, 1, 1)}
        if self.positions:
            fields["coords_global"] = self.centres[i]
        if self.labels is not None:
            keep = 1.0 if self.labels == "real" else 0.0
            fields |= {"label_amp": self.amp[i] * keep, "label_phase": self.phase[i] * keep}
        probe = self.probe
        return (TensorDict(fields) if self.as_tensordict else fields), probe, torch.tensor(4.0)


class Stream(IterableDataset):
    """The same samples as an iterable dataset: no index, no length."""

    def __init__(self, length=12):
        self._samples = ForeignDataset(length)

    def __iter__(self):
        return (self._samples[i] for i in range(len(self._samples)))


def collate(items):
    """Collate dicts and TensorDicts as `default_collate` does dicts."""
    fields = {key: torch.stack([item[0][key] for item in items]) for key in items[0][0].keys()}  # noqa: SIM118
    return fields, torch.stack([item[1] for item in items]), torch.stack([item[2] for item in items])


def loader(dataset, *, shuffle=False, batch_size=5):
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


class ForeignModule(LightningModule):
    """A tiny network with dropout and an always-eval submodule."""

    def __init__(self, channels=1, *, supervised=False, returns_predictions=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.3))
        self.frozen = nn.BatchNorm2d(8)
        self.amp, self.phase = nn.Conv2d(8, channels, 1), nn.Conv2d(8, channels, 1)
        self.supervised, self.returns_predictions = supervised, returns_predictions
        self.calls = []
        self.losses = []

    def on_fit_start(self):
        self.frozen.eval()

    def _object(self, x):
        features = self.frozen(self.body(x))
        return torch.sigmoid(self.amp(features)), torch.tanh(self.phase(features))

    def forward(self, x, positions, probe, input_scale, output_scale, experiment_ids):
        assert probe.ndim == 5
        self.calls.append(("forward", len(x)))
        amp, phase = self._object(x * input_scale)
        patches = torch.polar(amp, phase)
        if self.supervised:
            return patches, amp, phase
        return torch.fft.fft2(patches[:, :, None] * probe).sum(2).abs() / N_PX / output_scale, amp, phase

    def _step(self, batch):
        fields, probe, _ = batch
        scale = fields["rms_scaling_constant" if "rms_scaling_constant" in fields else "rms_input_scale"]
        first, amp, phase = self(fields["images"], fields["coords_relative"], probe, scale, scale, None)
        if self.supervised:
            return (amp - fields["label_amp"]).abs().mean(), {"amp": amp, "phase": phase}
        return (first - fields["images"]).abs().mean(), {"pred_diffraction": first, "amp": amp, "phase": phase}

    def training_step(self, batch, batch_idx):
        loss, _ = self._step(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        _, predictions = self._step(batch)
        return predictions if self.returns_predictions else None

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)
