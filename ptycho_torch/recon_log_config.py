"""Settings of the reconstruction logging: the `recon_log_*` fields of the execution settings."""

import re
from dataclasses import dataclass
from pathlib import Path

from ptycho_torch.checks import check_arrays_format, check_indices, check_pixel_size, option, require
from recon_worker.settings import MAX_AUTO_DEPTH, MAX_DEPTH, Overflow
from recon_worker.snapshot.choices import TILES_FROM_PX, ArraysFormat, StitchWeight

DEFAULT_EVERY_N_EPOCHS = 5
"""Logging interval if only other recon-log settings are given, which enables logging."""
_RECON = "Reconstruction logging (MLflow; each flag also with the prefix --torch-)"


@dataclass(frozen=True, kw_only=True)
class ReconLogConfig:
    """Reconstruction logging"""

    recon_log_every_n_epochs: int | None = option(
        None,
        "log reconstructions every N epochs and after the last epoch; default: off, or "
        f"{DEFAULT_EVERY_N_EPOCHS} if any other recon-log flag is given",
        group=_RECON,
    )
    recon_log_num_patches: int = option(
        4, "number of sample patches to log, evenly spaced over the dataset; 0: none", group=_RECON
    )
    recon_log_fixed_indices: tuple[int, ...] | None = option(
        None, "dataset indices of the patches to log, instead of evenly spaced ones", group=_RECON, metavar="I"
    )
    recon_log_stitch: bool = option(False, "also log the whole object, stitched from all patches", group=_RECON)
    recon_log_max_stitch_samples: int | None = option(
        None, "stitch only the first N samples; the rest of the object is shown as not scanned", group=_RECON
    )
    recon_log_stitch_weight: StitchWeight = option(
        "probe",
        "weight of overlapping patches: probe (the probe's intensity, largest where a patch is most reliable) or "
        "uniform",
        group=_RECON,
    )
    recon_log_baseline: bool = option(
        False,
        "also log the untrained network as epoch 0: one extra pass over the logged samples before the first step; by "
        "default step 0 of the image cards shows the ground truth or the measured data",
        group=_RECON,
    )
    recon_log_ramp: bool | None = option(
        None,
        "remove a linear phase ramp from the stitched object before computing errors; default: on for pinn, off for "
        "supervised, which learns the true phase",
        group=_RECON,
    )
    recon_log_pixel_size: float | None = option(
        None, "side of an object pixel, metres: for scale bars, resolutions in nm and the arrays", group=_RECON
    )
    recon_log_arrays: ArraysFormat = option(
        "none",
        "also log the stitched object, coverage, ground truth and positions as arrays: npz, or h5 (HDF5 in CXI "
        "conventions, needs h5py)",
        group=_RECON,
    )
    recon_log_tiles_from: int = option(
        TILES_FROM_PX,
        "also log stitched objects whose longer side has at least this many pixels as tiles, for zooming to single "
        "pixels; 0: never",
        group=_RECON,
        metavar="PX",
    )
    recon_log_description: bool | None = option(
        None,
        "show the latest summary in the description of the MLflow run, below your own text; default: only if you "
        "have written no description",
        group=_RECON,
    )
    recon_log_async: bool = option(
        False,
        "stitch, render and upload in a separate process; training only copies arrays and does not wait",
        group=_RECON,
    )
    recon_log_queue_depth: str = option(
        "2",
        f"async: number of snapshots that may wait, 1 to {MAX_DEPTH}, in memory up to --recon-log-queue-gib and in "
        f"files beyond it; 'auto': as many as fit into memory, at most {MAX_AUTO_DEPTH}",
        group=_RECON,
        metavar="N|auto",
    )
    recon_log_queue_gib: float | None = option(
        None,
        "async: memory for waiting snapshots, GiB; default: a tenth of the memory available to the process",
        group=_RECON,
    )
    recon_log_overflow: Overflow = option(
        "spill",
        "async, when the queue is full: spill writes the snapshot to disk; drop-oldest discards the oldest waiting "
        "snapshot (minimum depth 2); block makes training wait, at most for the flush timeout, then writes to disk",
        group=_RECON,
    )
    recon_log_spill_gib: float = option(
        10.0,
        "async: maximum size of snapshots waiting on disk, GiB; beyond it the oldest is discarded",
        group=_RECON,
    )
    recon_log_flush_timeout: float = option(
        300.0,
        "async: maximum time that the end of training waits for outstanding snapshots, seconds; what is left stays in "
        "the spool directory for recon-worker sync",
        group=_RECON,
    )
    recon_log_spool_dir: Path | None = option(
        None,
        "async: directory that keeps snapshots and pictures until they are in MLflow; default: recon_spool in the "
        "output directory",
        group=_RECON,
        metavar="DIR",
    )
    recon_log_strict: bool = option(
        False,
        "stop training if a snapshot cannot be prepared or queued, instead of warning once; failed pictures and "
        "uploads only ever warn",
        group=_RECON,
    )

    def __post_init__(self) -> None:
        every_n = self.recon_log_every_n_epochs
        require(
            every_n is None or every_n >= 1,
            f"recon_log_every_n_epochs is {every_n}; it must be at least 1. Leave it out to switch the logging off.",
        )
        patches, limit = self.recon_log_num_patches, self.recon_log_max_stitch_samples
        require(patches >= 0, f"recon_log_num_patches is {patches}; it must be at least 0.")
        require(limit is None or limit >= 1, f"recon_log_max_stitch_samples is {limit}; it must be at least 1.")
        tiles = self.recon_log_tiles_from
        require(tiles >= 0, f"recon_log_tiles_from is {tiles}; it must be at least 0. 0: no tiles.")
        check_indices("recon_log_fixed_indices", self.recon_log_fixed_indices)
        check_pixel_size("recon_log_pixel_size", self.recon_log_pixel_size)
        require(
            self.recon_log_arrays == "none" or self.recon_log_stitch,
            f"recon_log_arrays is {self.recon_log_arrays!r}, but there is no stitched object. Add --recon-log-stitch.",
        )
        check_arrays_format("recon_log_arrays", self.recon_log_arrays)
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
