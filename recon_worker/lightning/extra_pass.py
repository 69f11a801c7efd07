"""Predicts the samples missing from validation, by an extra pass through the module's forward functions."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from numpy.typing import NDArray
from torch import Tensor

from recon_worker.capture.capture import Capture, crop_of
from recon_worker.capture.gathering import Destination, Ranks, Rows
from recon_worker.capture.plan import CapturePlan
from recon_worker.lightning.dataset import item_field, item_number, item_probe, read_item, to_float32

_BATCH = 32


def fill_missing(
    capture: Capture,
    plan: CapturePlan,
    module: LightningModule,
    dataset: Any,  # noqa: ANN401
    precision: Precision,
    ranks: Ranks,
) -> None:
    """Predict the samples missing from a capture, divided among the ranks. All ranks must call this.

    Runs in eval mode, without gradients, in the Trainer's precision; restores the modes of all submodules and all
    random states.
    """
    arrays = capture.arrays
    objects, diffraction, stitch = capture.destinations

    def predict_patches(rows: NDArray[np.int64]) -> list[tuple[Destination, Rows]]:
        """Predict the fixed patches: object and, if the network predicts it, diffraction."""
        if rows.size == 0:
            return [(objects, objects.no_rows()), (diffraction, diffraction.no_rows())]
        images, positions, probe, scale, ids = _inputs(
            dataset, [plan.fixed_indices[i] for i in rows], module, precision
        )
        first, amp, phase = module(images, positions, probe, scale, scale, ids)
        found = Rows(rows, (to_float32(amp[:, 0]), to_float32(phase[:, 0])))
        is_object = first.is_complex()
        predicted = diffraction.no_rows() if is_object else Rows(rows, (to_float32(first[:, 0]),))
        return [(objects, found), (diffraction, predicted)]

    def predict_crops(rows: NDArray[np.int64]) -> list[tuple[Destination, Rows]]:
        """Predict the centre crops of the object."""
        if rows.size == 0:
            return [(stitch, stitch.no_rows())]
        predicted = _predict_object(module, _inputs(dataset, rows.tolist(), module, precision))
        crops = predicted[slice(None), *crop_of(plan.layout)]
        return [(stitch, Rows(rows, (to_float32(crops.abs()), to_float32(crops.angle()))))]

    missing = ranks.broadcast(lambda: np.flatnonzero(~np.concatenate([arrays.fixed_filled, arrays.stitch_filled])))
    n_fixed = plan.layout.n_fixed
    with random_state_kept(), evaluating(module), torch.no_grad(), precision.val_step_context():
        for rows in _shares(missing[missing < n_fixed], ranks):
            ranks.gather(partial(predict_patches, rows))
        for rows in _shares(missing[missing >= n_fixed] - n_fixed, ranks):
            ranks.gather(partial(predict_crops, rows))


def _shares(rows: NDArray[np.int64], ranks: Ranks) -> Iterator[NDArray[np.int64]]:
    """Yield this rank's batches, the same number on every rank; the last may be empty."""
    for start in range(0, len(rows), _BATCH * ranks.size):
        first = start + _BATCH * ranks.rank
        yield rows[first : first + _BATCH]


def _inputs(dataset: Any, indices: Sequence[int], module: LightningModule, precision: Precision) -> list[Tensor]:  # noqa: ANN401
    """Return images, positions, probe, scale and experiment ids of a batch, on the module's device."""
    items = [read_item(dataset, i) for i in indices]
    images = torch.stack([item_field(item, "images") for item in items])
    scale_names = ("rms_scaling_constant", "rms_input_scale")
    tensors = (
        images,
        torch.stack([item_field(item, "coords_relative") for item in items]),
        torch.stack([item_probe(item, images.shape[1]) for item in items]),
        torch.stack([item_field(item, *scale_names).reshape(1, 1, 1) for item in items]),
        torch.tensor([item_number(item) for item in items]),
    )
    return [precision.convert_input(t.to(module.device)) for t in tensors]


def _predict_object(module: LightningModule, inputs: Sequence[Tensor]) -> Tensor:
    """Return the (B, C, N, N) complex object, from `forward_predict` or from amplitude and phase of `forward`."""
    images, positions, probe, scale, ids = inputs
    predict: Callable[..., Tensor] | None = getattr(module, "forward_predict", None)
    if predict is not None:
        return predict(images, positions, probe, scale)
    _, amp, phase = module(images, positions, probe, scale, scale, ids)
    return torch.complex(amp.float() * phase.float().cos(), amp.float() * phase.float().sin())


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and restore the mode of every submodule on exit."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch (all devices) on exit."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
