"""Settings of a training run: four frozen groups, checked on construction, before any data is read.

Each field's help text is its documentation and, through `ptycho_torch.cli`, the text of its command-line flag. Free of
heavy imports, for a fast `--help`. In this package, only this module reads settings from the environment.
"""

import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ptycho_torch.checks import ConfigError, check_choices, check_directory, check_readable, option, require
from ptycho_torch.recon_log_config import ReconLogConfig
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.uris import without_credentials

ScanKind = Literal["raw", "grid_lines"]
ModelType = Literal["pinn", "supervised"]
LossName = Literal["poisson", "mae"]
ScheduleName = Literal["constant", "cosine"]
LoggerName = Literal["mlflow", "csv", "tensorboard", "none"]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

_PATCH_SIDES_PX = (64, 128, 256)
_DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_TRACKING_SCHEMES = (*_DATABASE_SCHEMES, "http", "https", "databricks")
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_LOGGER = "Logger"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data"""

    scan_kind: ScanKind = "raw"
    """Format of the data files. Set by the script; has no flag."""
    train_data_file: Path = option(None, "NPZ file with the scan to train on (required)", metavar="NPZ")
    test_data_file: Path | None = option(
        None,
        "NPZ file to validate on and to log reconstructions from; default: no validation, and reconstructions of the "
        "training scan",
        metavar="NPZ",
    )
    N: int = option(64, "side of a diffraction pattern, pixels: 64, 128 or 256, as in the files")
    gridsize: int = option(1, "1: single patterns; 2: groups of 2 x 2 neighbouring patterns that share one object")
    nphotons: float | None = option(
        None,
        "mean photons per pattern, for the Poisson loss; default: from the metadata, else from the counts of a raw "
        "scan, else 1e9",
    )
    probe_file: Path | None = option(None, "NPZ file whose probeGuess replaces that of the data file", metavar="NPZ")
    allow_pickled_metadata: bool = option(
        False, "read metadata that older files store as a pickled string; nothing else is ever unpickled"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.train_data_file is not None, "train_data_file is missing. Name the NPZ file to train on.")
        for name in ("train_data_file", "test_data_file", "probe_file"):
            check_readable(name, getattr(self, name))
        require(self.N in _PATCH_SIDES_PX, f"N is {self.N}; allowed: 64, 128, 256. It is the side of the patterns.")
        require(self.gridsize in (1, 2), f"gridsize is {self.gridsize}; allowed: 1, 2.")
        require(
            self.nphotons is None or self.nphotons > 0, f"nphotons is {self.nphotons}; it must be above 0, or left out."
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Model"""

    model_type: ModelType = option(
        "pinn", "pinn: physics-informed, learns from diffraction alone; supervised: learns from true object patches"
    )
    loss: LossName = option(
        "poisson", "loss of pinn: poisson (negative log-likelihood of counts) or mae (of amplitudes)"
    )
    probe_big: bool = option(
        True, "also predict the border of N/4 around the centre of each patch, for probes that extend into it"
    )
    n_filters_scale: int = option(1, "width of the network; the deepest layer has 128 times this many filters")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.n_filters_scale >= 1, f"n_filters_scale is {self.n_filters_scale}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training"""

    output_dir: Path = option(Path("outputs"), "directory for checkpoints, the MLflow database and artifacts")
    nepochs: int = option(50, "number of epochs")
    batch_size: int = option(8, "samples per step and device")
    learning_rate: float = option(1e-3, "learning rate of Adam")
    warmup_steps: int = option(
        50, "steps over which the learning rate rises to its value; without warm-up some training runs do not converge"
    )
    lr_schedule: ScheduleName = option(
        "constant", "learning rate after the warm-up: constant, or cosine decay to 2 % of it at the last step"
    )
    merge_neighbours: int = option(
        1,
        "size of the groups of neighbouring patterns whose predicted patches are averaged where they overlap, before "
        "the loss; 1: no averaging. Needs a raw scan at gridsize 1 and divides batch_size",
    )
    seed: int = option(42, "seed of the initial weights and the sample order")
    check_val_every_n_epoch: int = option(1, "validate every N epochs")
    resume: str | None = option(
        None, "continue from a checkpoint: a path, or 'last' for the newest in the output directory", metavar="CKPT"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("nepochs", "batch_size", "merge_neighbours", "check_val_every_n_epoch"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}; it must be at least 0.")
        require(
            self.batch_size % self.merge_neighbours == 0,
            f"merge_neighbours is {self.merge_neighbours}, but batch_size is {self.batch_size}; it must be a multiple "
            "of merge_neighbours.",
        )
        require(0 < self.learning_rate < float("inf"), f"learning_rate is {self.learning_rate}; it must be above 0.")
        require(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be from 0 to {2**32 - 1}.")
        check_directory("output_dir", self.output_dir)
        if self.resume is not None:
            check_readable("resume", self.resume_path)

    @property
    def checkpoint_dir(self) -> Path:
        """Absolute path of the checkpoint directory."""
        return self.output_dir.absolute() / "checkpoints"

    @property
    def resume_path(self) -> Path | None:
        """Checkpoint to continue from; None: train from scratch."""
        if self.resume is None:
            return None
        if self.resume != "last":
            return Path(self.resume)
        found = self.checkpoint_dir.glob("last*.ckpt")  # a second run in the same directory writes last-v1.ckpt
        return max(found, key=lambda path: path.stat().st_mtime, default=self.checkpoint_dir / "last.ckpt")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Lightning Trainer and metrics logger."""

    accelerator: Accelerator = option("auto", "device to train on")
    devices: str = option(
        "1", "devices per machine, one process each: a count, a list such as '0,1', or 'auto' for all"
    )
    num_nodes: int = option(
        1, "number of machines; torchrun or Slurm's srun starts the processes on each (docs/how-to/several-gpus.md)"
    )
    strategy: str = option(
        "auto",
        "Lightning strategy for several processes: ddp, ddp_spawn, fsdp (needs GPUs, untested); auto: ddp for several "
        "processes",
    )
    precision: Precision = option("32-true", "floating-point precision of the network")
    num_workers: int = option(0, "data loading processes; 0: load in the training process")
    logger: LoggerName = option("mlflow", "destination of metrics (also --torch-logger)", group=_LOGGER)
    mlflow_tracking_uri: str | None = option(
        None,
        "MLflow server or database; default: $MLFLOW_TRACKING_URI, else a SQLite file in the output directory",
        group=_LOGGER,
        metavar="URI",
    )
    mlflow_experiment: str = option("ptychography", "name of the MLflow experiment", group=_LOGGER)
    mlflow_run_name: str | None = option(None, "name of the MLflow run; default: generated by MLflow", group=_LOGGER)
    mlflow_run_id: str | None = option(
        None,
        "log to this MLflow run, or 'new'; default: with --resume the run named in the checkpoint if it is on the same "
        "server, else a new run",
        group=_LOGGER,
        metavar="ID|new",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(
            re.fullmatch(r"auto|-1|[1-9]\d*|\d+(,\d+)+,?|\d+,", self.devices) is not None,
            f"devices is {self.devices!r}; allowed: 'auto', a count such as 2, or a list such as '0,1'.",
        )
        require(self.num_nodes >= 1, f"num_nodes is {self.num_nodes}; it must be at least 1.")
        require(self.num_workers >= 0, f"num_workers is {self.num_workers}; it must be at least 0.")
        if self.logger == "mlflow" and self.mlflow_tracking_uri is not None:
            check_tracking_uri(self.mlflow_tracking_uri, "mlflow_tracking_uri")
        run_id = self.mlflow_run_id
        require(
            run_id is None or re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run_id) is not None,
            f"mlflow_run_id is {run_id!r}; give the id of a run, as shown on its page, or 'new'.",
        )


@dataclass(frozen=True, kw_only=True)
class PyTorchExecutionConfig(ReconLogConfig, TrainerConfig):  # fields in reverse: the Trainer's come first
    """Execution"""

    def __post_init__(self) -> None:
        TrainerConfig.__post_init__(self)
        ReconLogConfig.__post_init__(self)
        require(
            not self.recon_log_enabled or self.logger == "mlflow",
            f"reconstruction logging needs the MLflow logger, but logger is {self.logger!r}. "
            "Use --logger mlflow, or leave the recon-log flags out.",
        )


def check_tracking_uri(uri: str, source: str) -> None:
    """Raise ConfigError for a URI that MLflow rejects or resolves against the working directory."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in _TRACKING_SCHEMES and uri != "databricks":
        shown = f"the scheme {scheme!r}" if scheme else "no scheme"
        raise ConfigError(
            f"{source} has {shown}; allowed: sqlite:///<file>, http(s)://<host>, postgresql, mysql, mssql, databricks. "
            "MLflow no longer accepts directories and file: URIs; use sqlite:///<directory>/mlflow.db."
        )


def credentials_found(uri: str) -> list[str]:
    """Return the names of the sources from which MLflow takes credentials for a server, never their values."""
    found = [name for name in _CREDENTIALS if os.environ.get(name)]
    return [*found, "the tracking URI"] if without_credentials(uri) != uri else found


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one training run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    execution: PyTorchExecutionConfig = field(default_factory=PyTorchExecutionConfig)

    def __post_init__(self) -> None:
        if self.training.merge_neighbours > 1:
            found = f"merge_neighbours is {self.training.merge_neighbours}; it needs"
            require(self.data.scan_kind == "raw", f"{found} a raw scan: grid-lines files have no positions.")
            require(self.data.gridsize == 1, f"{found} gridsize 1; gridsize 2 merges its groups already.")
            require(
                self.model.model_type == "pinn",
                f"{found} model_type pinn; supervised learns from true patches.",
            )
        if self.execution.logger == "mlflow" and self.execution.mlflow_tracking_uri is None:
            environment = os.environ.get("MLFLOW_TRACKING_URI")
            if environment:
                check_tracking_uri(environment, "MLFLOW_TRACKING_URI")

    @property
    def remove_ramp(self) -> bool:
        """Whether a linear phase ramp is removed from the stitched object before errors are computed."""
        asked = self.execution.recon_log_ramp
        return self.model.model_type == "pinn" if asked is None else asked

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI: the setting, else $MLFLOW_TRACKING_URI, else SQLite in the output directory."""
        uri = self.execution.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            return f"sqlite:///{self.training.output_dir.absolute()}/mlflow.db"
        return with_absolute_path(uri)

    @property
    def artifact_location(self) -> str | None:
        """Artifact location of a new experiment; None: the server decides."""
        local = urlsplit(self.tracking_uri).scheme.split("+")[0] == "sqlite"
        return (self.training.output_dir.absolute() / "mlruns").as_uri() if local else None

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the settings as nested plain values for YAML (text, lists), without credentials in URIs."""
        plain: dict[str, dict[str, Any]] = {
            section: {k: _plain(v) for k, v in values.items()} for section, values in asdict(self).items()
        }
        uri = plain["execution"]["mlflow_tracking_uri"]
        plain["execution"]["mlflow_tracking_uri"] = without_credentials(uri) if uri else None
        return plain

    def as_yaml(self) -> str:
        """Return the settings as YAML text for `--config`."""
        import yaml

        text: str = yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)
        return text


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
