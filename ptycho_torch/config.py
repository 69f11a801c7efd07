"""All settings of a training run: four frozen groups, checked when they are made, before any data is read.

Each field's help text is its documentation and, through `ptycho_torch.cli`, the text of its command-line flag.
Imports nothing heavy, so that `--help` answers at once. The only place that reads the environment.
"""

import os
import re
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from recon_worker.settings import MAX_AUTO_DEPTH, MAX_DEPTH, Overflow
from recon_worker.snapshot.choices import ArraysFormat, StitchWeight
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.uris import without_credentials

ScanKind = Literal["raw", "grid_lines"]
ModelType = Literal["pinn", "supervised"]
LossName = Literal["poisson", "mae"]
ScheduleName = Literal["constant", "cosine"]
LoggerName = Literal["mlflow", "csv", "tensorboard", "none"]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

DEFAULT_EVERY_N_EPOCHS = 5
"""Cadence when some other recon-log flag switches the logging on."""
_PATCH_SIDES_PX = (64, 128, 256)
_DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_TRACKING_SCHEMES = (*_DATABASE_SCHEMES, "http", "https", "databricks")


class ConfigError(ValueError):
    """A setting is wrong. The message says what was found, what is allowed and what to do."""


def option(default: Any, help: str, *, group: str | None = None, metavar: str | None = None) -> Any:  # noqa: ANN401
    """A documented dataclass field. `group` names its heading in `--help` where it is not the class's own."""
    return field(default=default, metadata={"help": help, "group": group, "metavar": metavar})


def require(condition: bool, message: str) -> None:
    """Raise a ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_choices(config: object) -> None:
    """Refuse values that a Literal field of a dataclass does not allow."""
    hints = {f.name: f.type for f in fields(config)}  # type: ignore[arg-type]
    for name, hint in hints.items():
        allowed = next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())
        value = getattr(config, name)
        if allowed and value not in allowed and not (value is None and type(None) in get_args(hint)):
            raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}.")


def check_readable(name: str, path: Path | None) -> None:
    """Refuse a path at which there is no file; None stands for a file that is not given."""
    if path is not None:
        require(path.is_file(), f"{name}: there is no file {str(path)!r}. Give the path of an existing file.")


def check_directory(name: str, path: Path) -> None:
    """Refuse a path at which there is something else than a directory."""
    require(not path.exists() or path.is_dir(), f"{name} {str(path)!r} is a file; give a directory.")


def make_directory(name: str, path: Path) -> None:
    """Make a directory with its parents, if it is not there. Raises ConfigError if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be written: {error.strerror}.") from error


def check_pixel_size(name: str, size_m: float | None) -> None:
    """Refuse sides of an object pixel that no microscope has."""
    require(size_m is None or 0 < size_m < 1, f"{name} is {size_m} m; it must be above 0 and below 1 metre.")


def check_arrays_format(name: str, arrays: str) -> None:
    """Refuse HDF5 where it cannot be written."""
    require(
        arrays != "h5" or find_spec("h5py") is not None,
        f"{name} is 'h5', which needs h5py: pip install h5py. Or take npz.",
    )


def check_indices(name: str, indices: tuple[int, ...] | None) -> None:
    """Refuse dataset indices that are negative or repeated."""
    chosen = indices or ()
    require(min(chosen, default=0) >= 0, f"{name} has {min(chosen, default=0)}; count from 0.")
    repeated = sorted({i for i in chosen if chosen.count(i) > 1})
    require(not repeated, f"{name} has {repeated} more than once; name each sample once.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data"""

    scan_kind: ScanKind = "raw"
    """Set by the script, not by a flag: raw scans or grid-lines files."""
    train_data_file: Path = option(None, "NPZ file with the scan to train on (required)", metavar="NPZ")
    test_data_file: Path | None = option(
        None,
        "NPZ file to validate on; reconstructions are logged from it. Without one there is no validation and "
        "reconstructions come from the training scan",
        metavar="NPZ",
    )
    N: int = option(64, "side of a diffraction pattern, pixels: 64, 128 or 256; must match the files")
    gridsize: int = option(1, "1: every pattern alone; 2: groups of 2 x 2 neighbouring patterns that share one object")
    nphotons: float | None = option(
        None,
        "mean photons per pattern, for the Poisson loss; default: from the metadata, else from the measured counts "
        "of a raw scan, else 1e9",
    )
    probe_file: Path | None = option(None, "NPZ file whose probeGuess replaces the data file's", metavar="NPZ")
    allow_pickled_metadata: bool = option(
        False, "read the metadata of old files that hold it as a pickled string; nothing else is ever unpickled"
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
        "pinn", "pinn: learns from the diffraction alone; supervised: learns from true object patches"
    )
    loss: LossName = option("poisson", "pinn loss: poisson (negative log-likelihood of counts) or mae (of amplitudes)")
    probe_big: bool = option(
        True, "predict the border of N/4 around the centre of each patch too, for probes that reach into it"
    )
    n_filters_scale: int = option(1, "width of the network; the deepest layer has 128 times as many filters")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.n_filters_scale >= 1, f"n_filters_scale is {self.n_filters_scale}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training"""

    output_dir: Path = option(Path("outputs"), "directory for checkpoints, the MLflow database and artifacts")
    nepochs: int = option(50, "number of epochs")
    batch_size: int = option(8, "samples per step and device")
    learning_rate: float = option(1e-3, "step size of Adam")
    warmup_steps: int = option(
        50, "steps over which the step size rises to learning_rate; without, some trainings learn nothing"
    )
    lr_schedule: ScheduleName = option(
        "constant", "after the warm-up: constant, or cosine, which falls to 2 % of learning_rate at the last step"
    )
    merge_neighbours: int = option(
        1,
        "neighbouring patterns of a batch whose predicted patches are averaged where they overlap, before the loss; 1: "
        "none. For raw scans at gridsize 1; batch_size must be a multiple of it",
    )
    seed: int = option(42, "seed of the initial weights and the order of samples")
    check_val_every_n_epoch: int = option(1, "validate after every this many epochs")
    resume: str | None = option(
        None, "continue from a checkpoint: its path, or 'last' for the newest in the output directory", metavar="CKPT"
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
        """Where checkpoints are written, absolute."""
        return self.output_dir.absolute() / "checkpoints"

    @property
    def resume_path(self) -> Path | None:
        """The checkpoint to continue from."""
        if self.resume is None:
            return None
        if self.resume != "last":
            return Path(self.resume)
        found = self.checkpoint_dir.glob("last*.ckpt")  # a second run beside the first writes last-v1.ckpt
        return max(found, key=lambda path: path.stat().st_mtime, default=self.checkpoint_dir / "last.ckpt")


_LOGGER = "Logger"
_RECON = "Reconstruction logging (MLflow; each flag also with the prefix --torch-)"


@dataclass(frozen=True, kw_only=True)
class PyTorchExecutionConfig:
    """Execution"""

    accelerator: Accelerator = option("auto", "where to train")
    devices: str = option(
        "1", "devices on each machine, with a process for each: how many, which ('0,1'), or 'auto' for all"
    )
    num_nodes: int = option(
        1, "number of machines; torchrun or Slurm's srun starts the processes on each of them (docs/hpc.md)"
    )
    strategy: str = option(
        "auto",
        "how several processes train one network, by Lightning: ddp, ddp_spawn, fsdp (which needs GPUs and was not "
        "tried); auto: ddp if there are several",
    )
    precision: Precision = option("32-true", "floating-point precision of the network")
    num_workers: int = option(0, "processes that load data; 0: the training process itself")
    logger: LoggerName = option("mlflow", "where metrics go (also --torch-logger)", group=_LOGGER)
    mlflow_tracking_uri: str | None = option(
        None,
        "MLflow server or database; default: $MLFLOW_TRACKING_URI, else a SQLite file in the output directory",
        group=_LOGGER,
        metavar="URI",
    )
    mlflow_experiment: str = option("ptychography", "name of the MLflow experiment", group=_LOGGER)
    mlflow_run_name: str | None = option(None, "name of the MLflow run; default: MLflow's own", group=_LOGGER)
    mlflow_run_id: str | None = option(
        None,
        "log to this MLflow run; 'new' begins one; default: with --resume the run that the checkpoint names, if it is "
        "on the same server, else a new one",
        group=_LOGGER,
        metavar="ID|new",
    )
    recon_log_every_n_epochs: int | None = option(
        None,
        "log reconstructions after every this many epochs, and after the last; default: off, or "
        f"{DEFAULT_EVERY_N_EPOCHS} when any other recon-log flag is given",
        group=_RECON,
    )
    recon_log_num_patches: int = option(
        4, "sample patches to log, spread evenly over the dataset; 0: none", group=_RECON
    )
    recon_log_fixed_indices: tuple[int, ...] | None = option(
        None, "dataset indices of the patches to log, instead of an even spread", group=_RECON, metavar="I"
    )
    recon_log_stitch: bool = option(False, "also log the whole object, stitched from all patches", group=_RECON)
    recon_log_max_stitch_samples: int | None = option(
        None, "stitch only the first this many samples; the rest is shown as not scanned", group=_RECON
    )
    recon_log_stitch_weight: StitchWeight = option(
        "probe",
        "average overlapping patches by the probe's intensity, which knows each pixel best where it is bright, or "
        "uniform: equally",
        group=_RECON,
    )
    recon_log_baseline: bool = option(
        True,
        "also log the untrained network, as epoch 0: one extra pass over the logged samples before the first step",
        group=_RECON,
    )
    recon_log_ramp: bool | None = option(
        None,
        "take a linear phase ramp out of the stitched object before errors are computed; default: on for pinn, off "
        "for supervised, which learns the true phase",
        group=_RECON,
    )
    recon_log_pixel_size: float | None = option(
        None, "side of an object pixel, metres: for scale bars, resolutions in nm and the arrays", group=_RECON
    )
    recon_log_arrays: ArraysFormat = option(
        "none",
        "also log the stitched object with coverage, ground truth and positions as numbers: npz, or h5 (HDF5 in CXI's "
        "conventions, needs h5py)",
        group=_RECON,
    )
    recon_log_description: bool = option(
        False, "show the latest summary in the run's description; text of yours there is kept", group=_RECON
    )
    recon_log_async: bool = option(
        False,
        "stitch, render and upload in a separate process: the training only copies arrays and never waits",
        group=_RECON,
    )
    recon_log_queue_depth: str = option(
        "2",
        f"with async: snapshots that may wait, 1 to {MAX_DEPTH}, in memory as far as --recon-log-queue-gib goes, the "
        f"others in files; or 'auto' for as many as fit into memory, at most {MAX_AUTO_DEPTH}",
        group=_RECON,
        metavar="N|auto",
    )
    recon_log_queue_gib: float | None = option(
        None,
        "with async: memory for waiting snapshots, GiB; default: a tenth of what is available to the process",
        group=_RECON,
    )
    recon_log_overflow: Overflow = option(
        "spill",
        "with async, when the queue is full: spill writes the snapshot to disk, drop-oldest gives up the oldest "
        "waiting one and has at least 2 places, block lets the training wait, at most for the flush timeout, and then "
        "writes to disk",
        group=_RECON,
    )
    recon_log_spill_gib: float = option(
        10.0, "with async: snapshots that wait on disk at most, GiB; beyond, the oldest is given up", group=_RECON
    )
    recon_log_flush_timeout: float = option(
        300.0,
        "with async: how many seconds the end of the training may be delayed for what is left; the rest stays in the "
        "spool directory, for recon-worker sync",
        group=_RECON,
    )
    recon_log_spool_dir: Path | None = option(
        None,
        "with async: where snapshots and pictures are kept until they are in MLflow; default: recon_spool in the "
        "output directory",
        group=_RECON,
        metavar="DIR",
    )
    recon_log_strict: bool = option(
        False,
        "stop the training when preparing or taking a snapshot fails, instead of one warning; failed pictures and "
        "uploads only ever warn",
        group=_RECON,
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
            f"mlflow_run_id is {run_id!r}; give the id of a run, as its page shows it, or 'new'.",
        )
        self._check_recon_log()

    def _check_recon_log(self) -> None:
        every_n = self.recon_log_every_n_epochs
        require(
            every_n is None or every_n >= 1,
            f"recon_log_every_n_epochs is {every_n}; it must be at least 1. Leave it out to switch the logging off.",
        )
        require(
            every_n is None or self.logger == "mlflow",
            f"reconstruction logging needs the MLflow logger, but logger is {self.logger!r}. "
            "Use --logger mlflow, or leave the recon-log flags out.",
        )
        require(
            self.recon_log_num_patches >= 0,
            f"recon_log_num_patches is {self.recon_log_num_patches}; it must be at least 0.",
        )
        limit = self.recon_log_max_stitch_samples
        require(limit is None or limit >= 1, f"recon_log_max_stitch_samples is {limit}; it must be at least 1.")
        self._check_arrays()
        self._check_worker()
        check_indices("recon_log_fixed_indices", self.recon_log_fixed_indices)

    def _check_arrays(self) -> None:
        check_pixel_size("recon_log_pixel_size", self.recon_log_pixel_size)
        require(
            self.recon_log_arrays == "none" or self.recon_log_stitch,
            f"recon_log_arrays is {self.recon_log_arrays!r}, but there is no stitched object. Add --recon-log-stitch.",
        )
        check_arrays_format("recon_log_arrays", self.recon_log_arrays)

    def _check_worker(self) -> None:
        depth = self.recon_log_queue_depth
        require(
            depth == "auto" or (re.fullmatch(r"[1-9]\d?", depth) is not None and int(depth) <= MAX_DEPTH),
            f"recon_log_queue_depth is {depth!r}; allowed: a number from 1 to {MAX_DEPTH}, or auto.",
        )
        for name in ("recon_log_queue_gib", "recon_log_spill_gib"):
            value = getattr(self, name)
            require(value is None or 0 < value < float("inf"), f"{name} is {value}; it must be above 0.")
        timeout = self.recon_log_flush_timeout
        require(0 <= timeout < float("inf"), f"recon_log_flush_timeout is {timeout}; it must be at least 0 seconds.")

    @property
    def recon_log_enabled(self) -> bool:
        """Whether reconstructions are logged."""
        return self.recon_log_every_n_epochs is not None


def check_tracking_uri(uri: str, source: str) -> None:
    """Refuse what MLflow would refuse, or would resolve against the working directory."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in _TRACKING_SCHEMES and uri != "databricks":
        shown = f"the scheme {scheme!r}" if scheme else "no scheme"
        raise ConfigError(
            f"{source} has {shown}; allowed: sqlite:///<file>, http(s)://<host>, postgresql, mysql, mssql, databricks. "
            "MLflow no longer takes directories and file: URIs; use sqlite:///<directory>/mlflow.db."
        )


def credentials_found(uri: str) -> list[str]:
    """Where MLflow finds credentials for a server; names only, never what they hold."""
    found = [name for name in _CREDENTIALS if os.environ.get(name)]
    return [*found, "the tracking URI"] if without_credentials(uri) != uri else found


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    execution: PyTorchExecutionConfig = field(default_factory=PyTorchExecutionConfig)

    def __post_init__(self) -> None:
        if self.training.merge_neighbours > 1:
            found = f"merge_neighbours is {self.training.merge_neighbours}; it needs"
            require(self.data.scan_kind == "raw", f"{found} a raw scan: grid-lines files have no positions.")
            require(self.data.gridsize == 1, f"{found} gridsize 1; gridsize 2 merges groups by itself.")
            require(self.model.model_type == "pinn", f"{found} model_type pinn: a supervised one has true patches.")
        if self.execution.logger == "mlflow" and self.execution.mlflow_tracking_uri is None:
            environment = os.environ.get("MLFLOW_TRACKING_URI")
            if environment:
                check_tracking_uri(environment, "MLFLOW_TRACKING_URI")

    @property
    def remove_ramp(self) -> bool:
        """Whether errors are taken after a linear phase ramp is removed from the stitched object."""
        asked = self.execution.recon_log_ramp
        return self.model.model_type == "pinn" if asked is None else asked

    @property
    def tracking_uri(self) -> str:
        """Where runs are tracked: the setting, else $MLFLOW_TRACKING_URI, else SQLite in the output directory."""
        uri = self.execution.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            return f"sqlite:///{self.training.output_dir.absolute()}/mlflow.db"
        return with_absolute_path(uri)

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its artifacts; None: the server decides."""
        local = urlsplit(self.tracking_uri).scheme.split("+")[0] == "sqlite"
        return (self.training.output_dir.absolute() / "mlruns").as_uri() if local else None

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values (paths as text, tuples as lists), fit for YAML. Credentials in a URI are left out."""
        plain: dict[str, dict[str, Any]] = {
            section: {k: _plain(v) for k, v in values.items()} for section, values in asdict(self).items()
        }
        uri = plain["execution"]["mlflow_tracking_uri"]
        plain["execution"]["mlflow_tracking_uri"] = without_credentials(uri) if uri else None
        return plain

    def as_yaml(self) -> str:
        """The same as text, in the form that `--config` reads."""
        import yaml

        text: str = yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)
        return text


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
