"""Sees the predictions that validation computes, through a forward hook on the module."""

from typing import Any, NamedTuple

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from recon_worker.capture.adapters import Adapter, Predictions
from recon_worker.capture.errors import UnusableDataError, WrongSettingError, described


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


def predictions_in(adapter: Adapter, outputs: object) -> Predictions | None:
    """Return the predictions in what a module returned; None if there are none.

    Raises:
        UnusableDataError: The adapter returned something else.
    """
    found: Any = adapter.predictions(outputs)
    if found is None:
        return None
    parts = tuple(found) if isinstance(found, tuple | list) else ()
    if len(parts) in (2, 3) and all(isinstance(one, Tensor) for one in parts[:2]):
        predictions = Predictions(*parts)
        if predictions.diffraction is None or isinstance(predictions.diffraction, Tensor):
            return predictions
    raise UnusableDataError(
        f"{type(adapter).__name__}.predictions returned {described(found)}; allowed: Predictions(amp, phase) or "
        "Predictions(amp, phase, diffraction) of tensors, or None."
    )


def recognised(adapter: Adapter, outputs: object) -> Predictions | None:
    """Return the predictions in what a module returned; None if there are none, or if the adapter fails."""
    try:
        return None if outputs is None else predictions_in(adapter, outputs)
    except Exception:  # user code, which expects another form
        return None


class Seen(NamedTuple):
    """Results of a module's calls."""

    predictions: list[Predictions]
    unread: object
    """The first result that holds no predictions; None: there was no such result."""
    changed: bool
    """Whether predictions were changed in place after the call."""


class ForwardWatch:
    """Collects the predictions of one validation batch while a hook is on the module.

    Under DDP, Lightning calls the module once more around `validation_step`; the result of that call is what
    `on_validation_batch_end` receives, and not a tuple of predictions.

    Args:
        module: Module whose calls are watched.
        adapter: Recognises predictions among the results.
    """

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        self._module, self._adapter = module, adapter
        self._handle: RemovableHandle | None = None
        self._seen: list[Predictions] = []
        self._versions: list[list[int]] = []
        self._unread: object = None
        self.refusal = ""
        """Why the module accepts no hook; empty: it does."""

    def start(self) -> None:
        """Put the hook on the module."""
        self.stop()
        try:
            self._handle = self._module.register_forward_hook(self._see)
        except RuntimeError as error:  # a torch.jit.ScriptModule
            self.refusal = str(error)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
        if (predictions := recognised(self._adapter, output)) is not None:
            amp, phase, diffraction = predictions
            seen = Predictions(amp.detach(), phase.detach(), None if diffraction is None else diffraction.detach())
            self._seen.append(seen)
            self._versions.append(_versions(seen))
        elif self._unread is None:
            self._unread = output

    def take(self) -> Seen:
        """Return and forget what was seen since the last call."""
        changed = [_versions(one) for one in self._seen] != self._versions
        seen = Seen(self._seen, self._unread, changed)
        self._seen, self._versions, self._unread = [], [], None
        return seen

    def stop(self) -> None:
        """Remove the hook, and forget what it saw."""
        self.take()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _versions(predictions: Predictions) -> list[int]:
    """Return torch's counter of in-place changes for each tensor; 0 if it counts none (`torch.inference_mode`)."""
    return [0 if one is None or one.is_inference() else one._version for one in predictions]
