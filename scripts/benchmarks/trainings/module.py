"""Case b: a LightningModule of another project, which learns from true patches. Its validation returns nothing."""

import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import MLFlowLogger
from logging_watch import Hooks
from torch import Tensor, nn

from trainings.case import EXPERIMENT, NUM_PATCHES, SEED, CaseSettings, Moments, Trained
from trainings.network import make_network, use_deterministic_kernels
from trainings.scan import ScanData, supervised_loss


class ForeignModule(LightningModule):
    """Supervised training.

    Args:
        network: Predicts amplitude and phase.
        returns: Whether `validation_step` returns the predictions.
    """

    def __init__(self, network: nn.Module, *, returns: bool) -> None:
        super().__init__()
        self.network, self._returns = network, returns

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401 - the network's
        """Return amplitude and phase, (B, 1, N, N) each."""
        return self.network(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return supervised_loss(self, batch)[0]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor] | None:
        """Log the loss; return the predictions if asked to."""
        loss, amp, phase = supervised_loss(self, batch)
        self.log("val_loss", loss, batch_size=len(amp))
        return {"amp": amp, "phase": phase} if self._returns else None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class MarkMoments(Callback):
    """Records the start of each epoch and the end of the last one. The first callback: it precedes the flush.

    Args:
        deterministic: Whether to use deterministic kernels, so that weights can be compared.
    """

    def __init__(self, *, deterministic: bool) -> None:
        self.moments, self._deterministic = Moments(), deterministic

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose deterministic kernels; the Trainer's own setting has been applied before."""
        if self._deterministic:
            use_deterministic_kernels()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the start of an epoch."""
        self.moments.start_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the end of the last epoch."""
        self.moments.end_training()


def make_callback(settings: CaseSettings, test: ScanData) -> Callback:
    """Return the logging callback with a worker."""
    from recon_worker.lightning import PtychoReconLoggingCallback
    from recon_worker.settings import WorkerSettings

    return PtychoReconLoggingCallback(
        settings.every,
        NUM_PATCHES,
        log_stitch=True,
        stitch_weight="uniform",
        positions=test.positions_px,
        ground_truth=test.truth,
        worker=WorkerSettings(spool_dir=settings.spool),
        strict=True,
    )


def fit(settings: CaseSettings, callbacks: list[Callback], train: ScanData, test: ScanData) -> ForeignModule:
    """Train with these callbacks; returns the trained module."""
    seed_everything(SEED, verbose=False)
    trainer = Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=settings.epochs,
        logger=MLFlowLogger(
            EXPERIMENT, tracking_uri=settings.tracking_uri, artifact_location=settings.artifact_location
        ),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=settings.output,
    )
    module = ForeignModule(make_network(settings.network, settings.n_px), returns=settings.returns)
    batch = settings.batch_size
    trainer.fit(module, train.loader(batch, shuffle=True), test.loader(batch))
    return module


def train(settings: CaseSettings) -> Trained:
    """Train, and log if the settings say so."""
    warnings.filterwarnings("ignore", module="lightning|torch|mlflow")
    marks, hooks = MarkMoments(deterministic=settings.accelerator == "gpu"), Hooks()
    data, test = (ScanData(settings.data / name) for name in ("train.npz", "test.npz"))
    callbacks: list[Callback] = [marks]
    if settings.logging:
        callbacks.append(hooks.watch(make_callback(settings, test)))
    module = fit(settings, callbacks, data, test)
    return trained_of(settings, module, marks.moments, hooks)


def trained_of(settings: CaseSettings, module: nn.Module, moments: Moments, hooks: Hooks) -> Trained:
    """Return the result of a training run with Lightning."""
    return Trained(
        network=module,
        moments=moments,
        stalls=hooks.stalls([epoch - 1 for epoch in settings.due]) if settings.logging else [],
        start_s=hooks.total("setup") + hooks.total("on_train_start"),
        flush_s=hooks.total("on_train_end") + hooks.total("teardown"),
    )
