"""Short training runs of a foreign module, and the artifacts they log."""

import torch
from lightning.pytorch import Trainer

from tests.lightning.foreign import ForeignDataset, ForeignModule, loader
from tests.lightning.quiet import QUIET


def fit(tracking, callback, *, epochs=2, module=None, train=None, val="default", logger=None, callbacks=(), **settings):
    """Fit a foreign module for a few epochs; return it and the trainer."""
    torch.manual_seed(7)
    module = module or ForeignModule()
    trainer = Trainer(
        max_epochs=epochs,
        logger=logger if logger is not None else tracking.logger(),
        callbacks=[*callbacks, *([callback] if callback else [])],
        **QUIET,
        **settings,
    )
    val = loader(ForeignDataset(12)) if isinstance(val, str) else val
    trainer.fit(module, loader(ForeignDataset(20), shuffle=True) if train is None else train, val)
    return module, trainer


def epochs_logged(tracking):
    """Return the epoch folders, without that of the untrained network."""
    return [folder for folder in tracking.epoch_folders() if folder != "epoch_00"]


def patches_logged(tracking):
    return {name.split("/")[1] for name in tracking.files() if "/patch_" in name}


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.state_dict().values()])


def seeded_module(returns_predictions):
    """Return a foreign module with fixed initial weights."""
    torch.manual_seed(3)
    return ForeignModule(returns_predictions=returns_predictions)
