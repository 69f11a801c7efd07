"""Case c: a plain PyTorch loop that logs with `ReconLogger`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import mlflow
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainings.case import EXPERIMENT, NUM_PATCHES, SEED, CaseSettings, Moments, Trained
from trainings.network import make_network, use_deterministic_kernels
from trainings.scan import ScanData, supervised_loss

if TYPE_CHECKING:
    from recon_worker import ReconLogger

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class Stopwatch:
    """Sums seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the duration of a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def train(settings: CaseSettings) -> Trained:
    """Train, and log if the settings say so."""
    torch.manual_seed(SEED)
    data, test = (ScanData(settings.data / name) for name in ("train.npz", "test.npz"))
    device = torch.device(_DEVICES[settings.accelerator])
    if device.type == "cuda":
        use_deterministic_kernels()
    network = make_network(settings.network, settings.n_px).to(device)
    mlflow.set_tracking_uri(settings.tracking_uri)
    experiment_id = mlflow.create_experiment(EXPERIMENT, settings.artifact_location)
    around, stalls, moments = Stopwatch(), list[dict[str, float]](), Moments()
    with mlflow.start_run(experiment_id=experiment_id):
        with around("start"):
            recon = _recon_logger(settings, test) if settings.logging else None
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        loaders = data.loader(settings.batch_size, shuffle=True), test.loader(settings.batch_size)
        for epoch in range(1, settings.epochs + 1):
            moments.start_epoch()
            for batch in loaders[0]:
                optimizer.zero_grad()
                loss, *_ = supervised_loss(network, [one.to(device) for one in batch])
                torch.autograd.backward(loss)
                optimizer.step()
            val_loss, seconds = _validate(network, loaders[1], device, recon, epoch)
            mlflow.log_metric("val_loss", val_loss, epoch)
            if epoch in settings.due and recon is not None:
                stalls.append(seconds)
        moments.end_training()
        with around("flush"):
            if recon is not None:
                recon.close()
    spent = around.seconds
    return Trained(network=network, moments=moments, stalls=stalls, start_s=spent["start"], flush_s=spent["flush"])


def _recon_logger(settings: CaseSettings, test: ScanData) -> "ReconLogger":
    from recon_worker import ReconLogger
    from recon_worker.settings import WorkerSettings

    return ReconLogger(
        positions=test.positions_px,
        ground_truth=test.truth,
        diffraction=test.patterns,
        every_n_epochs=settings.every,
        max_epochs=settings.epochs,
        num_patches=NUM_PATCHES,
        worker=WorkerSettings(spool_dir=settings.spool),
        strict=True,
    )


def _validate(
    network: nn.Module,
    loader: DataLoader[tuple[Tensor, ...]],
    device: torch.device,
    recon: "ReconLogger | None",
    epoch: int,
) -> tuple[float, dict[str, float]]:
    """Validate one epoch; returns the mean loss, and the seconds spent in the logger's methods."""
    watch, losses, first = Stopwatch(), list[Tensor](), 0
    with torch.no_grad():
        with watch("enter"):
            shot = nullcontext() if recon is None else recon.epoch(epoch)
            entered = shot.__enter__()
        for batch in loader:
            loss, amp, phase = supervised_loss(network, [one.to(device) for one in batch])
            losses.append(loss)
            with watch("add"):
                if entered is not None:
                    entered.add(range(first, first + len(amp)), amp=amp, phase=phase)
            first += len(amp)
        with watch("exit"):
            shot.__exit__(None, None, None)
    return torch.stack(losses).mean().item(), watch.seconds
