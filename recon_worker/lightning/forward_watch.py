"""Reads predictions from the outputs of modules; a forward hook observes those that validation computes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import nn

from recon_worker.capture.adapters import Adapter, Predictions
from recon_worker.capture.copying import as_tensor
from recon_worker.capture.errors import UnusableDataError, WrongSettingError, described
from recon_worker.system.handler_errors import raise_if_from_signal_handler


def predicting_module(module: LightningModule, name: str | None) -> nn.Module:
    """Return the submodule that predicts, by its name; None: the LightningModule itself.

    Raises:
        WrongSettingError: There is no such submodule.
    """
    if name is None:
        return module
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        names = [child for child, _ in module.named_children()]
        raise WrongSettingError(
            f"predictions_from is {name!r}, but {type(module).__name__} has no such submodule; it has {names}."
        ) from error


def read_predictions(adapter: Adapter, outputs: object) -> Predictions | None:
    """Return the predictions in the output of a module, as tensors without a graph; None if there are none.

    Raises what the adapter raises; UnusableDataError or TypeError if the adapter returns anything but predictions.
    """
    found: object = None if outputs is None else adapter.predictions(outputs)
    if found is None:
        return None
    if not (isinstance(found, tuple | list) and 2 <= len(found) <= 3):
        raise UnusableDataError(
            f"{type(adapter).__name__}.predictions returns {described(found)}; allowed: Predictions(amp, phase) or "
            "Predictions(amp, phase, diffraction), or None."
        )
    amp, phase, diffraction = (None if one is None else as_tensor(one).detach() for one in (*found, None)[:3])
    return None if amp is None or phase is None else Predictions(amp, phase, diffraction)


def recognised(adapter: Adapter, outputs: object) -> Predictions | None:
    """Return the predictions in the output of a module; None if there are none, or if the adapter raises."""
    try:
        return read_predictions(adapter, outputs)
    except Exception as error:  # user code, which expects another form
        raise_if_from_signal_handler(error)
        return None


class Seen(NamedTuple):
    """Results of a module's calls."""

    predictions: list[Predictions]
    unread: object
    """The first result that holds no predictions; None: there was no such result."""
    changed: bool
    """Whether predictions were changed in place after the call."""


class ForwardWatch:
    """Collects the predictions of one validation batch, through a hook on the module.

    Between batches there is no hook, so a module that a callback copies or saves then does not contain it.

    Under DDP, Lightning calls the module once more around `validation_step`; the result of that call is what
    `on_validation_batch_end` receives, and not a tuple of predictions.

    Args:
        module: Module whose calls are watched.
        adapter: Recognises predictions among the results.
    """

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        self._module, self._adapter = module, adapter
        self._remove: Callable[[], object] | None = None
        self._seen: list[Predictions] = []
        self._versions: list[list[int]] = []
        self._unread: object = None
        self.refusal = ""
        """Why the module accepts no hook; empty: it does."""

    def start(self) -> None:
        """Register the hook on the module, at the start of a batch."""
        self.stop()
        compiled = self._module._compiled_call_impl
        if compiled is not None:  # by `Module.compile`, which would compile the hook, too
            self._module._compiled_call_impl = partial(self._call, compiled)
            self._remove = partial(setattr, self._module, "_compiled_call_impl", compiled)
            return
        try:
            self._remove = self._module.register_forward_hook(self._see).remove
        except RuntimeError as error:  # a torch.jit.ScriptModule
            self.refusal = str(error)

    def _call(self, compiled: Callable[..., Any], *inputs: Any, **named: Any) -> Any:  # noqa: ANN401
        output = compiled(*inputs, **named)
        self._see(self._module, inputs, output)
        return output

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
        if torch.compiler.is_compiling():  # what follows would break the graph: an error with fullgraph=True
            return
        if (predictions := recognised(self._adapter, output)) is not None:
            self._seen.append(predictions)
            self._versions.append(_versions(predictions))
        elif self._unread is None:
            self._unread = output

    def stop(self) -> Seen:
        """Remove the hook. Return, and clear, what it has observed."""
        if self._remove is not None:
            self._remove()
            self._remove = None
        changed = [_versions(one) for one in self._seen] != self._versions
        seen = Seen(self._seen, self._unread, changed)
        self._seen, self._versions, self._unread = [], [], None
        return seen


def _versions(predictions: Predictions) -> list[int]:
    """Return torch's counter of in-place changes for each tensor; 0 if it counts none (`torch.inference_mode`)."""
    return [0 if one is None or one.is_inference() else one._version for one in predictions]
