"""Writes a reconstruction to a directory, with the same files and metrics as an epoch in MLflow.

summary.png
stitched/{amp,phase}_pred.png ...   arrays.npz or .h5      further objects: stitched_object_01/
refined/                            the same for the refined object
patch_272/...
metrics.json                        metrics by their names in MLflow
scales.json                         colour ranges
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ptycho_torch.checks import ConfigError, make_directory
from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.labels import METRICS, metric_label, metric_value
from recon_worker.pictures.records import Metrics, is_metrics
from recon_worker.pictures.snapshot_figures import RefinedObject
from recon_worker.snapshot.artifact import SCALES, Failure
from recon_worker.snapshot.records import Scan, Snapshot
from recon_worker.system.standard_streams import shows_progress


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Files and metrics of a reconstructed scan."""

    output_dir: Path
    files: tuple[str, ...]
    """Paths in the output directory."""
    failures: tuple[Failure, ...]
    """Artifacts that failed."""
    epoch: int
    """Completed epochs of the network."""
    step: int
    """Optimiser steps of the network."""
    metrics: Mapping[str, float]
    """Metrics by their names in MLflow, such as "recon/stitched/amp_mae"."""

    def describe(self) -> str:
        """Return a table of the metrics, one column per object, the failures and the output directory."""
        failed = [f"{one.path} failed: {one.reason}" for one in self.failures]
        where = f"Epoch {self.epoch}, step {self.step}: {len(self.files)} files in {self.output_dir}"
        return "\n".join([*table(self.metrics), *failed, where])


def write(
    output_dir: Path,
    scan: Scan,
    snapshot: Snapshot,
    history: History,
    source: Mapping[str, str],
    refined: Sequence[RefinedObject | Failure] = (),
) -> Reconstruction:
    """Render a snapshot and write the files, replacing existing ones of the same name.

    Args:
        output_dir: Created if it does not exist.
        scan: Constant part of the scan.
        snapshot: Predictions.
        history: Colour ranges.
        source: Entries of metrics.json that record the origin of the metrics.
        refined: Refined objects, or failures of the refinement.

    Raises:
        ConfigError: A file or directory cannot be written.
    """
    files, metrics = list[str](), dict[str, float]()
    failures = [one for one in refined if isinstance(one, Failure)]
    drawn = render(scan, snapshot, history, refined=[one for one in refined if isinstance(one, RefinedObject)])
    for made in tqdm(drawn, desc="Drawing", unit="file", leave=False, disable=not shows_progress()):
        if isinstance(made, Failure):
            failures.append(made)
        elif is_metrics(made.path):
            metrics |= Metrics.from_json(made.data).values
        elif made.path.startswith("epoch_"):
            files.append(_put(output_dir, made.path.split("/", 1)[1], made.data))
    record = {**source, "epoch": snapshot.epoch, "step": snapshot.step, "metrics": metrics}
    files.append(_put(output_dir, "metrics.json", (json.dumps(record, indent=1) + "\n").encode()))
    files.append(_put(output_dir, SCALES, history.colour_ranges.to_json().encode()))
    return Reconstruction(
        output_dir=output_dir,
        files=tuple(files),
        failures=tuple(failures),
        epoch=snapshot.epoch,
        step=snapshot.step,
        metrics=metrics,
    )


def _put(output_dir: Path, name: str, data: bytes) -> str:
    path = output_dir / name
    make_directory("output_dir", path.parent)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"output_dir: {path} cannot be written: {error.strerror}.") from error
    return name


def table(metrics: Mapping[str, float]) -> list[str]:
    """Return the lines of a table: one row for each of `METRICS`, one column for each object.

    >>> table({"recon/stitched/amp_mae": 0.25, "recon/patches/coverage": 0.5})
    ['               stitched  patches', 'amplitude MAE  0.25', 'coverage                 0.5']
    """
    values = {tuple(name.split("/")[1:]): value for name, value in metrics.items()}
    objects = list(dict.fromkeys(object_ for object_, _ in values))
    rows = [["", *objects]]
    for name in METRICS:
        cells = [metric_value(name, values[one, name]) if (one, name) in values else "" for one in objects]
        if any(cells):
            rows.append([metric_label(name).label, *cells])
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
