"""The files and numbers of one reconstruction in a directory, as one epoch of a training has them in MLflow.

summary.png
stitched/{amp,phase}_pred.png ...   arrays.npz or .h5      further objects: stitched_object_01/
refined/                            the same of the refined object
patch_272/...
metrics.json                        numbers by their name in MLflow
scales.json                         the colour ranges
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ptycho_torch.config import ConfigError, make_directory
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
    """What was made of a scan."""

    output_dir: Path
    files: tuple[str, ...]
    """Paths in the output directory."""
    failures: tuple[Failure, ...]
    """What could not be made."""
    epoch: int
    """Completed epochs of the network."""
    step: int
    """Its optimizer steps."""
    metrics: Mapping[str, float]
    """By their name in MLflow, such as "recon/stitched/amp_mae"."""

    def describe(self) -> str:
        """A table of the numbers, one column per object, what failed, and where to look."""
        failed = [f"{one.path} could not be made: {one.reason}" for one in self.failures]
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
    """Render a snapshot and write all but what only MLflow shows; a file of the same name is replaced.

    Args:
        output_dir: Made if it is not there.
        scan: What does not change.
        snapshot: What was predicted.
        history: The colour ranges.
        source: What metrics.json says about where the numbers come from.
        refined: See `SnapshotFigures`; or why it could not be made.

    Raises:
        ConfigError: The directory cannot be written.
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
    """Lines with the numbers, by their name in MLflow: one row for each of `METRICS`, one column for each object.

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
