"""Checkpoint contents: self-contained, usable without the files of the training run.

    state_dict, hyper_parameters     the network
    PtychoDataModule                 constants of the training set: `Normalisation.to_state`
    callbacks/RecipeInCheckpoint     settings of its reconstructions: `Recipe`

All entries are tensors and plain values, so that checkpoints load with `weights_only=True`, without running code.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback

from ptycho_torch.checks import ConfigError, check_choices
from ptycho_torch.config import Precision, RunConfig, ScanKind
from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.data.normalisation import Normalisation
from ptycho_torch.model.lightning_module import PtychoLightningModule
from recon_worker.snapshot.choices import StitchWeight

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that reproduce a training run's reconstructions from its network and data."""

    scan_kind: ScanKind
    """Format of the data files."""
    batch_size: int
    """Samples per batch."""
    precision: Precision
    """Precision of the network."""
    validated: bool
    """Whether predictions come from validation; otherwise, without a test file, from an extra pass over the scan."""
    num_patches: int
    """Number of evenly spaced sample patches if `fixed_indices` is None."""
    fixed_indices: tuple[int, ...] | None
    """Dataset indices of the sample patches."""
    stitch_weight: StitchWeight
    """Weight of overlapping patches."""
    remove_ramp: bool
    """Whether a linear phase ramp is removed before errors are computed."""
    pixel_size_m: float | None
    """Side of an object pixel, metres."""

    def __post_init__(self) -> None:
        check_choices(self)

    @classmethod
    def of(cls, config: RunConfig) -> "Recipe":
        """Extract the recipe from the settings of a training run."""
        execution = config.execution
        return cls(
            scan_kind=config.data.scan_kind,
            batch_size=config.training.batch_size,
            precision=execution.precision,
            validated=config.data.test_data_file is not None,
            num_patches=execution.recon_log_num_patches,
            fixed_indices=execution.recon_log_fixed_indices,
            stitch_weight=execution.recon_log_stitch_weight,
            remove_ramp=config.remove_ramp,
            pixel_size_m=execution.recon_log_pixel_size,
        )


_SHAPING = ("n_px", "gridsize", "probe_big", "n_filters_scale")
"""Settings that determine the parameters of a network."""


class RecipeInCheckpoint(Callback):
    """Stores the recipe in checkpoints."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def state_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        return asdict(self._recipe)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, with the constants and settings for reconstructing a scan."""

    model: PtychoLightningModule
    """On the CPU."""
    constants: Normalisation
    recipe: Recipe
    epoch: int
    """Completed epochs."""
    step: int
    """Optimiser steps taken."""


def read_checkpoint(path: Path, setting: str) -> dict[str, Any]:
    """Read a checkpoint file; tensors are memory-mapped.

    Args:
        path: Checkpoint file.
        setting: Name of the setting that holds the path, for the error message.

    Raises:
        ConfigError: The file is not a Lightning checkpoint, or is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not {"state_dict", "callbacks", "epoch", "global_step"} <= content.keys():
            raise KeyError("entries of a Lightning checkpoint are missing")
    except Exception as error:  # torch raises many types for damaged or foreign files
        first = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"{setting}: {path} cannot be read as a checkpoint ({type(error).__name__}: {first})."
        ) from error
    return dict(content)


def check_resumable(path: Path, model: PtychoLightningModule) -> None:
    """Check that a checkpoint holds the same network as `model`.

    Raises:
        ConfigError: The checkpoint cannot be read, or holds a different network. Names the differing settings.
    """
    content = read_checkpoint(path, "resume")
    kept, own = (
        {name: one.shape for name, one in state.items()} for state in (content["state_dict"], model.state_dict())
    )
    if kept == own:
        return
    settings = content.get("hyper_parameters", {})
    differing = [name for name in _SHAPING if name in settings and settings[name] != model.hparams[name]]
    found = ", ".join(f"{name} {settings[name]} (here {model.hparams[name]})" for name in differing)
    raise ConfigError(
        f"resume: {path} holds a different network than these settings define"
        + (f": it was trained with {found}. Give the same settings." if found else ", from another version.")
    )


def load_trained(path: Path) -> Trained:
    """Read the checkpoint of a training run.

    Raises:
        ConfigError: It cannot be read, holds an unknown network, or lacks constants or recipe.
    """
    content = read_checkpoint(path, "checkpoint")
    recipe, state = (
        content["callbacks"].get(RecipeInCheckpoint.__qualname__),
        content.get(PtychoDataModule.__qualname__),
    )
    model = _model(path, content)
    if recipe is None or state is None:
        raise ConfigError(
            f"checkpoint: {path} lacks the normalisation constants and settings of its training, which the "
            "reconstruction needs: an older version or another program wrote it. Continue its training with --resume "
            "for at least one epoch; the new checkpoint has them."
        )
    return Trained(
        model=model,
        constants=_read(path, Normalisation.of_state, state),
        recipe=_read(path, lambda values: Recipe(**values), recipe),
        epoch=int(content["epoch"]) + 1,
        step=int(content["global_step"]),
    )


def _model(path: Path, content: Mapping[str, Any]) -> PtychoLightningModule:
    try:
        model = PtychoLightningModule(**content["hyper_parameters"])
        model.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"checkpoint: {path} holds a network that this program does not train ({type(error).__name__}: {first})."
        ) from error
    return model.eval()


def _read(path: Path, read: Callable[[Any], _T], state: object) -> _T:
    """Parse an entry of a checkpoint. Raises ConfigError if another version or program wrote it."""
    try:
        return read(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"checkpoint: {path} has settings that this version cannot read ({type(error).__name__}: {error}). Use "
            "the version that wrote it."
        ) from error
