"""Checks the settings of `ReconQuality`, and finds what they refer to in the Trainer."""

import re
from difflib import get_close_matches
from pathlib import Path

from lightning.pytorch import Trainer

from recon_worker.capture.errors import WrongSettingError
from recon_worker.lightning.callback import PtychoReconLoggingCallback
from recon_worker.lightning.trainer_state import mlflow_logger
from recon_worker.pictures.labels import METRICS

_GROUP = re.compile(r"stitched(_object_\d{2})?|patches")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")
"""Start of an address, whose two slashes `Path` reduces to one."""


def lower_is_better(monitor: str) -> bool:
    """Return whether lower values of a metric are better. Raises ValueError if it cannot rank reconstructions."""
    _, group, name = ["", "", *monitor.split("/")][-3:]
    group = group if _GROUP.fullmatch(group) else "stitched"
    ranking = {name: label for name, label in METRICS.items() if label.better}
    names = [name for name, label in ranking.items() if group.startswith(label.group)]
    if name in names and monitor == f"recon/{group}/{name}":
        return METRICS[name].better == "low"
    near = get_close_matches(name, names, n=1) if name not in ranking else [name]
    if near:
        group = group if near[0] in names else ranking[near[0]].group
        advice = f"did you mean 'recon/{group}/{near[0]}'?"
    else:
        advice = f"allowed: recon/{group}/... {', '.join(names)}."
    raise ValueError(f"monitor is {monitor!r}, which is not a metric that ranks reconstructions; {advice}")


def check_local(name: str, folder: object) -> None:
    """Raise WrongSettingError if a folder is an address, such as s3://bucket/x."""
    if _ADDRESS.match(str(folder)):
        raise WrongSettingError(
            f"{name} is {str(folder)!r}, but ReconQuality removes checkpoints and thus needs a folder on this machine; "
            "pass one as dirpath=."
        )


def logging_callback(trainer: Trainer, monitor: str) -> PtychoReconLoggingCallback:
    """Return the callback whose reconstructions are ranked. Raises WrongSettingError if it logs no such metric."""
    found = next((one for one in trainer.callbacks if isinstance(one, PtychoReconLoggingCallback)), None)  # type: ignore[attr-defined] # set by Lightning
    if found is None:
        raise WrongSettingError(
            "ReconQuality ranks what PtychoReconLoggingCallback logs, and the Trainer has none; add "
            "PtychoReconLoggingCallback(..., log_stitch=True) to its callbacks."
        )
    if monitor.startswith("recon/stitched") and not found.log_stitch:
        raise WrongSettingError(
            f"ReconQuality monitors {monitor}, but PtychoReconLoggingCallback stitches no object; add log_stitch=True "
            "to it, or monitor a metric of the patches, such as recon/patches/phase_mae_rad."
        )
    return found


def default_root(trainer: Trainer) -> str:
    """Return the logger's or Trainer's folder, below which `ModelCheckpoint` keeps its checkpoints."""
    logger = mlflow_logger(trainer)
    return str((logger and logger.save_dir) or trainer.default_root_dir)


def default_folder(trainer: Trainer) -> Path:
    """Return the folder that `ModelCheckpoint` would use, that of the MLflow run."""
    logger = mlflow_logger(trainer)
    below = () if logger is None else (str(logger.name), str(logger.version))
    return Path(default_root(trainer)).absolute().joinpath(*below, "checkpoints")
