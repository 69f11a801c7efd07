"""Predicts the samples missing from validation, by an extra pass through the module."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from numpy.typing import NDArray

from recon_worker.capture.adapters import HOW_TO_ADAPT, Adapter
from recon_worker.capture.capture import Capture, Measured
from recon_worker.capture.copying import as_tensor
from recon_worker.capture.dataset import read_item
from recon_worker.capture.errors import UnusableDataError, described
from recon_worker.capture.logged_run import LoggedRun
from recon_worker.capture.placement.unchanged import in_modules_of, left_unchanged, own_generators
from recon_worker.capture.plan import CapturePlan
from recon_worker.lightning.forward_watch import read_predictions

_BATCH = 32
"""Number of samples predicted at once, if memory suffices."""
_LOGS = ("log", "log_dict")


def fill_missing(run: LoggedRun, capture: Capture, predict: Callable[[NDArray[np.int64]], None]) -> None:
    """Predict the samples missing from a capture, divided among the ranks. All ranks must call this.

    If validation provides no misfit for its samples, the misfits of the others, which do not represent the scan, are
    dropped.

    Args:
        run: The logged run.
        capture: This rank's capture; the one on rank zero determines which samples are missing.
        predict: Predicts samples by their dataset indices, and adds them to the capture.
    """
    own = run.ranks.broadcast(lambda: missing_samples(capture, run.plan))[run.ranks.rank :: run.ranks.size]
    validated = capture.arrays.stitch_filled
    keeps_misfit = not validated.any() or not np.isnan(capture.arrays.misfit[validated]).all()
    run.add_missing(capture, lambda: predict(own))
    if run.ranks.rank == 0 and not keeps_misfit:
        capture.arrays.misfit[:] = np.nan


def missing_samples(capture: Capture, plan: CapturePlan) -> NDArray[np.int64]:
    """Return the dataset indices of the logged samples without a prediction, ascending."""
    fixed = np.array(plan.fixed_indices, np.int64)[~capture.arrays.fixed_filled]
    return np.union1d(np.flatnonzero(~capture.arrays.stitch_filled), fixed)


def predict_samples(
    capture: Capture,
    indices: NDArray[np.int64],
    *,
    dataset: Any,  # noqa: ANN401
    adapter: Adapter,
    module: torch.nn.Module,
    precision: Precision,
) -> None:
    """Predict samples of a dataset, and add them to a capture.

    Runs in eval mode, without gradients, in the Trainer's precision; restores the modes of all submodules, all random
    states, and the attributes of the dataset.

    Raises:
        UnusableDataError: The adapter does not recognise what the module returns, or it has a wrong shape.
    """
    device = next((one.device for one in module.parameters()), torch.device("cpu"))

    def predict(batch: NDArray[np.int64]) -> None:
        items = [read_item(dataset, int(i)) for i in batch]
        arguments = adapter.arguments(items)
        outputs = module(*(precision.convert_input(as_tensor(one).to(device)) for one in arguments))
        predictions, name = read_predictions(adapter, outputs), type(module).__name__
        if predictions is None:
            raise UnusableDataError(
                f"{name} returns {described(outputs)}, which {type(adapter).__name__} does not read as predictions. "
                f"{HOW_TO_ADAPT}"
            )
        if len(predictions.amp) != len(batch):
            raise UnusableDataError(f"{name} returns predictions of {len(predictions.amp)} samples for {len(batch)}.")
        measured = Measured("`Sample.diffraction`", partial(_observed, adapter, items))
        capture.add(capture.target_of(batch), predictions, measured)

    with left_unchanged(dataset), evaluating(module), torch.no_grad(), precision.val_step_context():
        _in_batches(indices, predict)


def _in_batches(indices: NDArray[np.int64], predict: Callable[[NDArray[np.int64]], None]) -> None:
    """Predict all samples, in smaller batches if the memory of the GPU does not suffice."""
    size, start = _BATCH, 0
    while start < len(indices):
        try:
            predict(indices[start : start + size])
        except torch.cuda.OutOfMemoryError:  # raised for any device
            if size == 1:
                raise
            size //= 2
        else:
            start += size


def _observed(adapter: Adapter, items: Sequence[Any]) -> torch.Tensor | None:
    """Return the measured diffraction of items, (B, C, N, N); None if they have none."""
    patterns = [as_tensor(one) for item in items if (one := adapter.sample(item).diffraction) is not None]
    return torch.stack(patterns) if len(patterns) == len(items) else None


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into eval mode; restore the mode and the random generators of every submodule on exit.

    Inside, `self.log` of a LightningModule does nothing: Lightning would count or refuse the logged values.
    """
    modules = list(module.modules())
    modes = [(submodule, submodule.training) for submodule in modules]
    restores = list(own_generators(map(vars, modules), in_modules_of(modules)))
    loggers = [vars(one) for one in modules if isinstance(one, LightningModule)]
    own_logs = [{name: one[name] for name in _LOGS if name in one} for one in loggers]
    module.eval()
    for attributes in loggers:
        attributes |= dict.fromkeys(_LOGS, _log_nothing)
    try:
        yield
    finally:
        for attributes, own in zip(loggers, own_logs, strict=True):
            for name in _LOGS:
                attributes.pop(name, None)
            attributes |= own
        for submodule, training in modes:
            submodule.training = training
        for restore in restores:
            restore()


def _log_nothing(*args: object, **settings: object) -> None:
    pass
