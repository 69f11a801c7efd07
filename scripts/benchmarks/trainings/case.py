"""Settings and results of one complete training run. Imports no torch: the process that starts it needs none."""

import csv
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Case = Literal["a", "b", "c"]
Network = Literal["small", "full"]
TITLES: dict[str, str] = {
    "a": "ptycho_torch",
    "b": "Lightning module that returns nothing",
    "c": "plain loop, ReconLogger",
}
NUM_PATCHES = 4
SEED = 7
EXPERIMENT = "benchmark"


@dataclass(frozen=True, kw_only=True)
class CaseSettings:
    """Settings of one training run."""

    case: Case
    logging: bool
    """Whether reconstructions are logged."""
    folder: str
    """Contains `data`; each training run writes into its own folder beside it."""
    name: str
    n_px: int = 64
    epochs: int = 20
    every: int = 5
    """Logging interval, epochs."""
    batch_size: int = 24
    threads: int = 0
    """Threads of torch; 0: its default."""
    accelerator: Literal["cpu", "gpu"] = "cpu"
    network: Network = "small"
    returns: bool = False
    """Case b: whether `validation_step` returns its predictions."""

    @property
    def data(self) -> Path:
        """Folder with `train.npz` and `test.npz`."""
        return Path(self.folder, "data")

    @property
    def output(self) -> Path:
        """Output folder of the training."""
        return Path(self.folder, self.name)

    @property
    def spool(self) -> Path:
        """Spool folder of the worker."""
        return self.output / "spool"

    @property
    def tracking_uri(self) -> str:
        """SQLite database of the training."""
        return f"sqlite:///{self.output}/mlflow.db"

    @property
    def artifact_location(self) -> str:
        """Artifact location of the experiment."""
        return (self.output / "mlruns").as_uri()

    @property
    def due(self) -> list[int]:
        """Logged epochs, counted from 1."""
        return [e for e in range(1, self.epochs + 1) if e % self.every == 0 or e == self.epochs]


@dataclass(kw_only=True)
class Moments:
    """Wall time and CPU time of this process at the moments that divide a training run into phases."""

    epochs: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since 1970, CPU seconds) at the start of each epoch."""
    trained: tuple[float, float] = (0.0, 0.0)
    """The same at the end of the last epoch, before the flush."""

    def start_epoch(self) -> None:
        """Record the start of an epoch."""
        self.epochs.append(now())

    def end_training(self) -> None:
        """Record the end of the last epoch."""
        self.trained = now()


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of one training run."""

    network: "nn.Module"
    moments: Moments
    stalls: list[dict[str, float]] = field(default_factory=list)
    """Seconds on the training thread per hook, for each logged epoch."""
    start_s: float = 0.0
    """Seconds on the training thread before the first epoch."""
    flush_s: float = 0.0
    """Seconds of the final flush."""


def now() -> tuple[float, float]:
    """Return (seconds since 1970, CPU seconds of this process)."""
    return time.time(), time.process_time()


def digest(network: "nn.Module") -> str:
    """Return a digest of all weights."""
    whole = hashlib.sha256()
    for value in network.state_dict().values():
        whole.update(value.cpu().numpy().tobytes())
    return whole.hexdigest()


def logged_epochs(settings: CaseSettings) -> list[int]:
    """Return the epochs whose summary has arrived in MLflow's artifact store."""
    found = settings.output.glob("mlruns/*/artifacts/epoch_*/summary.png")
    return sorted(int(path.parent.name.removeprefix("epoch_")) for path in found)


def read_events(table: Path) -> list[dict[str, float]]:
    """Read `recon_log/events.csv`; an empty list if there is none."""
    if not table.exists():
        return []
    with table.open() as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
