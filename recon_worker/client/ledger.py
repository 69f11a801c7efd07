"""`Ledger`: counts the outcome of every snapshot, and keeps the metrics of each rendered epoch.

At the end `submitted = logged + dropped + spooled + failed`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recon_worker.client.job import EVENTS, REFERENCE, Job
from recon_worker.pictures.labels import epoch_label, metric_label
from recon_worker.system.messages import message_log

_log = message_log(__name__)
_QUALITY = tuple(
    f"recon/{group}/{name}"
    for group in ("stitched", "patches")
    for name in ("phase_ssim", "phase_correlation", "r_factor", "deviance")
)
"""Metrics of the quality of a reconstruction: of the first object, else of the patches; the most meaningful first."""
_RESOLUTION = {
    "recon/stitched/frc_resolution_half_px": "FRC",
    "recon/stitched/half_data_frc_half_period_px": "half-data FRC",
}


@dataclass(kw_only=True)
class Ledger:
    """Counts of one run. Snapshots still in progress are `pending`."""

    submitted: int = 0
    """Snapshots submitted."""
    logged: int = 0
    """Snapshots whose artifacts have all been uploaded."""
    dropped: int = 0
    """Snapshots discarded in favour of newer ones."""
    spooled: int = 0
    """Snapshots left on disk for a later upload."""
    failed: int = 0
    """Snapshots with at least one artifact that could not be made or uploaded."""
    failed_in_part: int = 0
    """Failed snapshots whose remaining artifacts are left on disk for a later upload."""
    artifacts_logged: int = 0
    """Artifacts uploaded."""
    artifacts_failed: int = 0
    """Artifacts that could not be made or uploaded."""

    spilled: int = 0
    """Snapshots written to disk because the queue was full."""
    waited: int = 0
    """Snapshots for which training waited for a free slot (overflow policy `block`)."""
    high_water: int = 0
    """Largest number of snapshots in the queue at once."""
    retries: int = 0
    """Upload attempts that were repeated."""
    restarts: int = 0
    """Worker processes that died."""
    epochs: list[int] = field(default_factory=list)
    """Logged epochs, in the order in which they were completed."""
    metrics: dict[int, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of each rendered epoch, by their names in MLflow, including epochs of the run that this one
    continues. Values that are not finite are absent."""

    @property
    def pending(self) -> int:
        """Snapshots submitted but not yet logged, dropped, spooled or failed."""
        return self.submitted - self.logged - self.dropped - self.spooled - self.failed

    def count_rendered(self, job: Job, *, uploaded: bool) -> None:
        """Count a rendered snapshot whose artifacts are all in MLflow (`uploaded`) or still in the outbox."""
        self.artifacts_logged += job.artifacts if uploaded else 0
        self.artifacts_failed += job.failures
        if job.generation in (EVENTS, REFERENCE):
            return
        if job.failures:
            self.failed += 1
            self.failed_in_part += job.artifacts > 0 and not uploaded
        elif uploaded:
            self.logged += 1
        else:
            self.spooled += 1

    def add_rendered(self, epoch: int, report: Mapping[str, Any]) -> None:
        """Keep the `metrics` of a rendered epoch, and log its `alert`, if any, as a warning."""
        self.metrics[epoch] = report["metrics"]
        if report["alert"]:
            _log.warning("Epoch %d: %s.", epoch, report["alert"])

    def add_logged(self, epoch: int, took_s: float) -> str:
        """Record that a rendered epoch is logged. Returns the line that reports it, compared with the latest before it.

        `took_s` is the time from `submit` to its last artifact in MLflow.
        """
        metrics, parts = self.metrics[epoch], list[str]()
        if (quality := _quality_of(metrics)) is not None:
            before = [one for one in self.epochs if one < epoch and quality in self.metrics[one]]
            change = f" ({metrics[quality] - self.metrics[max(before)][quality]:+.3f})" if before else ""
            parts.append(quality_text(quality, metrics[quality]) + change)
        self.epochs.append(epoch)
        resolutions = [f"{label} {metrics[name]:.1f} px" for name, label in _RESOLUTION.items() if name in metrics]
        parts += [*resolutions[:1], f"logged in {took_s:.1f} s"]
        return f"{epoch_label(epoch)}: {', '.join(parts)}"

    def best(self) -> str:
        """Describe the best epoch, by the quality metric of the last logged one; empty if fewer than two have it."""
        quality = _quality_of(self.metrics[self.epochs[-1]]) if self.epochs else None
        if quality is None:
            return ""
        values = {epoch: one[quality] for epoch, one in sorted(self.metrics.items()) if quality in one}
        if len(values) < 2:
            return ""
        sign = -1 if metric_label(quality.rpartition("/")[2]).better == "low" else 1
        best = max(values, key=lambda epoch: sign * values[epoch])
        return f"Best: epoch {best}, {quality_text(quality, values[best])}."

    def __str__(self) -> str:
        partly = f"; of {self.failed_in_part} failed, the artifacts that could be made are spooled"
        return (
            f"{self.submitted} submitted = {self.logged} logged + {self.dropped} dropped + {self.spooled} spooled + "
            f"{self.failed} failed ({self.artifacts_logged} artifacts, {self.artifacts_failed} failed"
            f"{partly if self.failed_in_part else ''})"
        )


def _quality_of(metrics: Mapping[str, float]) -> str | None:
    """Return the name of the quality metric of a reconstruction; None if it has none."""
    return next((name for name in _QUALITY if name in metrics), None)


def quality_text(name: str, value: float) -> str:
    """Format a metric, such as `phase SSIM 0.612`, or `R-factor of patches 0.310`."""
    _, group, kind = name.split("/")
    label = metric_label(kind)
    return f"{label.label}{'' if group == 'stitched' else f' of {group}'} {value:.3f} {label.unit}".rstrip()
