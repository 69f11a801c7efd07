"""Case a: the reference training, as `scripts/training/train.py` runs it."""

import warnings

from lightning.pytorch import Callback
from logging_watch import Hooks

from ptycho_torch.cli import resolve
from ptycho_torch.config import RunConfig
from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.workflows import components
from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from trainings.case import EXPERIMENT, NUM_PATCHES, SEED, CaseSettings, Trained
from trainings.module import MarkMoments, trained_of
from trainings.network import make_network


def train(settings: CaseSettings) -> Trained:
    """Train, and log if the settings say so."""
    warnings.filterwarnings("ignore", module="lightning|torch|mlflow")
    marks, hooks = MarkMoments(deterministic=settings.accelerator == "gpu"), Hooks()
    make_callbacks, make_model = components._callbacks, components.make_model

    def callbacks(config: RunConfig) -> list[Callback]:
        made = make_callbacks(config)
        return [marks, *(hooks.watch(one) if isinstance(one, PtychoReconLoggingCallback) else one for one in made)]

    def model(config: RunConfig) -> PtychoLightningModule:
        module = make_model(config)
        if settings.network == "small":
            module.network = make_network("small", settings.n_px)  # type: ignore[assignment]
        return module

    components._callbacks, components.make_model = callbacks, model
    result = components.run_training(_config(settings))
    return trained_of(settings, result.model, marks.moments, hooks)


def _config(settings: CaseSettings) -> RunConfig:
    logging = {
        "recon_log_every_n_epochs": settings.every,
        "recon_log_num_patches": NUM_PATCHES,
        "recon_log_stitch": True,
        "recon_log_async": True,
        "recon_log_strict": True,
        "recon_log_spool_dir": settings.spool,
    }
    training = {
        "train_data_file": settings.data / "train.npz",
        "test_data_file": settings.data / "test.npz",
        "N": settings.n_px,
        "gridsize": 1,
        "output_dir": settings.output,
        "nepochs": settings.epochs,
        "batch_size": settings.batch_size,
        "seed": SEED,
        "accelerator": settings.accelerator,
        "devices": "1",
        "logger": "mlflow",
        "mlflow_tracking_uri": settings.tracking_uri,
        "mlflow_experiment": EXPERIMENT,
    }
    return resolve("raw", {**training, **(logging if settings.logging else {})})
