"""Predictions that validation did not deliver: one extra pass through `forward` and `forward_predict` of the module."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from recon_worker.capture.capture import Capture, CapturePlan, crop_of
from recon_worker.capture.gathering import Place, Ranks, Rows
from recon_worker.lightning.dataset import item_field, item_probe, read_item, to_float32

_EXTRA_PASS_BATCH = 32


@dataclass(frozen=True)
class Precision:
    """How the Trainer runs a validation step: its autocast context and its conversion of inputs."""

    context: Callable[[], AbstractContextManager[None]]
    convert: Callable[[Any], Any]


def fill_missing(
    capture: Capture,
    plan: CapturePlan,
    module: LightningModule,
    dataset: Any,  # noqa: ANN401
    precision: Precision,
    ranks: Ranks,
) -> None:
    """One extra pass over the samples that validation did not deliver, shared among the ranks.

    In eval mode, without gradients; modes of all submodules and all random states are as before afterwards.
    """
    missing = ranks.from_zero(capture.missing)
    extra_pass = _ExtraPass(plan, capture.places, module, dataset, precision)
    n_fixed = plan.layout.n_fixed
    with random_state_kept(), evaluating(module), torch.no_grad(), precision.context():
        for rows in _shares(missing[missing < n_fixed], ranks):
            ranks.gather(partial(extra_pass.patches, rows))
        for rows in _shares(missing[missing >= n_fixed] - n_fixed, ranks):
            ranks.gather(partial(extra_pass.objects, rows))


def _shares(rows: NDArray[np.int64], ranks: Ranks) -> Iterator[NDArray[np.int64]]:
    """This rank's batches, equally many on all ranks; the last may be empty."""
    for start in range(0, len(rows), _EXTRA_PASS_BATCH * ranks.size):
        first = start + _EXTRA_PASS_BATCH * ranks.rank
        yield rows[first : first + _EXTRA_PASS_BATCH]


@dataclass(frozen=True)
class _ExtraPass:
    """Predictions of samples by their rows."""

    plan: CapturePlan
    places: tuple[Place, Place, Place]
    module: LightningModule
    dataset: Any
    precision: Precision

    def patches(self, rows: NDArray[np.int64]) -> list[tuple[Place, Rows]]:
        """Of fixed patches: object and, if the network predicts it, diffraction."""
        objects, diffraction, _ = self.places
        if rows.size == 0:
            return [(objects, objects.no_rows()), (diffraction, diffraction.no_rows())]
        first, amp, phase = _forward(self.module, self._inputs([self.plan.fixed_indices[row] for row in rows]))
        found = Rows(rows, (to_float32(amp[:, 0]), to_float32(phase[:, 0])))
        is_object = first.is_complex()
        predicted = diffraction.no_rows() if is_object else Rows(rows, (to_float32(first[:, 0]),))
        return [(objects, found), (diffraction, predicted)]

    def objects(self, rows: NDArray[np.int64]) -> list[tuple[Place, Rows]]:
        """Centre crops of the object."""
        stitch = self.places[2]
        if rows.size == 0:
            return [(stitch, stitch.no_rows())]
        predicted = _forward_predict(self.module, self._inputs(rows.tolist()))
        crops = predicted[slice(None), *crop_of(self.plan.layout)]
        return [(stitch, Rows(rows, (to_float32(crops.abs()), to_float32(crops.angle()))))]

    def _inputs(self, indices: Sequence[int]) -> "_Inputs":
        return _collate(self.dataset, indices, self.module, self.precision)


@dataclass(frozen=True)
class _Inputs:
    images: Tensor
    positions: Tensor
    probe: Tensor
    scale: Tensor
    experiment_ids: Tensor


def _collate(dataset: Any, indices: Sequence[int], module: LightningModule, precision: Precision) -> _Inputs:  # noqa: ANN401
    items = [read_item(dataset, i) for i in indices]
    images = torch.stack([item_field(item, "images") for item in items])
    scale_names = ("rms_scaling_constant", "rms_input_scale")
    ids = [item[0]["experiment_id"] if "experiment_id" in item[0].keys() else 0 for item in items]  # noqa: SIM118
    tensors = (
        images,
        torch.stack([item_field(item, "coords_relative") for item in items]),
        torch.stack([item_probe(item, images.shape[1]) for item in items]),
        torch.stack([item_field(item, *scale_names).reshape(1, 1, 1) for item in items]),
        torch.tensor([int(i) for i in ids]),
    )
    return _Inputs(*(precision.convert(t.to(module.device)) for t in tensors))


def _forward(module: LightningModule, x: _Inputs) -> tuple[Tensor, Tensor, Tensor]:
    first, amp, phase = module(x.images, x.positions, x.probe, x.scale, x.scale, x.experiment_ids)
    return first, amp, phase


def _forward_predict(module: LightningModule, x: _Inputs) -> Tensor:
    predict: Callable[..., Tensor] | None = getattr(module, "forward_predict", None)
    if predict is not None:
        return predict(x.images, x.positions, x.probe, x.scale)
    _, amp, phase = _forward(module, x)
    return torch.complex(amp.float() * phase.float().cos(), amp.float() * phase.float().sin())


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has its own mode back."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever happens inside, Python's, NumPy's and torch's generators (all devices) are as before afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
