"""Modules and datasets in the forms of other projects. Each module predicts the truth of the sample that it is given.

The number of a sample is coded in the corner of its input, so that a prediction for the wrong sample shows.
"""

from types import SimpleNamespace

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.reconstruction.known_objects import cut_patches, smooth_object

N = 32
TRUTH = smooth_object((110, 96))
"""110 rows, 96 columns: swapped axes do not fit."""
N_SAMPLES = 60


def _positions():
    rng = np.random.default_rng(3)
    return rng.uniform(N // 2 + 3, np.array(TRUTH.shape[::-1]) - N // 2 - 3, (N_SAMPLES, 2))


POSITIONS = _positions()
PATCHES = cut_patches(TRUTH, POSITIONS, N)


def diffraction_of(patches):
    """Diffraction amplitude, for a probe of 1."""
    return np.abs(np.fft.fftshift(np.fft.fft2(patches, norm="ortho"), (-2, -1))).astype(np.float32)


DIFFRACTION = diffraction_of(PATCHES)


def coded(number, channels=1):
    """The input of a sample: its number, in one pixel, on its diffraction."""
    image = torch.from_numpy(DIFFRACTION[number]).repeat(channels, 1, 1)
    image[:, 0, 0] = number
    return image


class Container(Dataset):
    """PtychoPINN's main path: a container with the means of the groups, and items without absolute positions."""

    def __init__(self, truth=TRUTH):
        offsets = POSITIONS[:, None, :, None]
        relative = np.zeros((N_SAMPLES, 1, 2, 1), np.float32)
        self.container = SimpleNamespace(global_offsets=offsets, coords_relative=relative, YY_full=truth)
        self.probe = torch.ones(1, 1, N, N, dtype=torch.complex64)

    def __len__(self):
        return N_SAMPLES

    def fields(self, number):
        return {
            "images": coded(number),
            "observed_images": torch.from_numpy(DIFFRACTION[number])[None],
            "coords_relative": torch.zeros(1, 1, 2),
            "rms_scaling_constant": torch.ones(1, 1, 1),
            "physics_scaling_constant": torch.full((1, 1, 1), 30.0),
            "experiment_id": torch.tensor(0),
        }

    def __getitem__(self, number):
        return self.fields(number), self.probe, torch.tensor(1.0)


class CountIntensity(Container):
    """PtychoPINN's count-intensity profile with conditioned inputs: intensities, and three input channels."""

    scale = 1e6

    def fields(self, number):
        counts = torch.from_numpy(DIFFRACTION[number])[None] ** 2 * self.scale
        return {
            "images": coded(number, channels=3),
            "observed_images": counts,
            "measured_intensity": counts,
            "mean_measured_intensity": counts.mean().view(1, 1, 1),
            "coords_relative": torch.zeros(1, 1, 2),
            "rms_input_scale": torch.full((1, 1, 1), 1e-3),
            "probe_normalization": torch.full((1, 1, 1), self.scale),
            "experiment_id": torch.tensor(0),
        }


class Pairs(Dataset):
    """PtychoNN: (diffraction, patches), channel 0 phase, channel 1 amplitude. Positions are kept elsewhere."""

    def __len__(self):
        return N_SAMPLES

    def __getitem__(self, number):
        patch = torch.from_numpy(PATCHES[number])
        return coded(number), torch.stack([patch.angle(), patch.abs()])


class Oracle(nn.Module):
    """Returns the true patches of the samples coded in its input, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("patches", torch.from_numpy(PATCHES), persistent=False)
        self.calls = []

    def object(self, x):
        self.calls.append(len(x))
        return self.patches[x[:, :1, 0, 0].round().long()] * (1 + 0 * self.weight)


class Module(LightningModule):
    """Validates without returning anything, as PtychoPINN does; optimises manually."""

    intensity = False

    def __init__(self, *, returns=False, calls=1):
        super().__init__()
        self.oracle, self.n_calls, self.returns = Oracle(), calls, returns
        self.dropout = nn.Dropout(0.5)
        self.automatic_optimization = False
        self.losses = []

    def forward(self, x, positions, probe, input_scale, output_scale, experiment_ids):
        assert probe.ndim == 5
        assert input_scale.shape == output_scale.shape == (len(x), 1, 1, 1)
        patches = self.oracle.object(x)
        amplitude = torch.fft.fftshift(torch.fft.fft2(patches, norm="ortho"), (-2, -1)).abs()
        return (amplitude**2 if self.intensity else amplitude) / output_scale, patches.abs(), patches.angle()

    def arguments(self, fields, probe):
        scale = fields["rms_scaling_constant"]
        return fields["images"], fields["coords_relative"], probe, scale, scale, fields["experiment_id"]

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = (self.dropout(torch.rand(4)).sum() * self.oracle.weight - 1) ** 2
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.losses.append(loss.item())

    def validation_step(self, batch, batch_idx):
        fields, probe, _ = batch
        for _ in range(self.n_calls):
            first, amp, phase = self(*self.arguments(fields, probe))
        self.log("val_loss", amp.mean())
        return {"pred_diffraction": first, "amp": amp, "phase": phase} if self.returns else None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class CountModule(Module):
    """Predicts intensities."""

    intensity = True

    def arguments(self, fields, probe):
        scale, output = fields["rms_input_scale"], 1 / fields["probe_normalization"]
        return fields["images"], fields["coords_relative"], probe, scale, output, fields["experiment_id"]


class PairModule(Module):
    """A network of one argument, in `forms` of results."""

    def __init__(self, form="channels", **settings):
        super().__init__(**settings)
        self.form = form

    def forward(self, x):
        patches = self.oracle.object(x)
        phase, amp = patches.angle(), patches.abs()
        return {
            "channels": torch.cat([phase, amp], dim=1),
            "pair": (phase, amp),
            "images": (phase[:, 0], amp[:, 0]),
            "complex": patches,
        }[self.form]

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class Network(Oracle):
    """Predicts phase and amplitude."""

    def forward(self, x):
        patches = self.object(x)
        return patches.angle(), patches.abs()


class HiddenNetwork(PairModule):
    """Calls a submodule, and has no `forward` of its own."""

    def __init__(self):
        super().__init__()
        self.oracle = self.model = Network()

    def forward(self, x):
        raise NotImplementedError

    def validation_step(self, batch, batch_idx):
        self.model(batch[0])


def loader(dataset, *, batch_size=16, **settings):
    return DataLoader(dataset, batch_size=batch_size, **settings)
