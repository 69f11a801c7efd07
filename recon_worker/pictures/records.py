"""Records that MLflow stores in its own form: metrics, image cards, the run description.

Each waits in the outbox as a file whose name encodes its kind, so that it is kept and retried like an artifact:

    metrics/epoch_05.json                         -> log_batch
    cards/epoch_05/stitched_amp.step_165.png      -> log_image(key="recon/stitched_amp", step=165)
    cards/reference/stitched_amp.step_0.png       -> log_image(key="recon/stitched_amp", step=0)
    description/run.json                          -> the tag that MLflow shows as the run's description

Logging a record is idempotent.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Self, TypeAlias
from urllib.parse import quote

from recon_worker.snapshot.artifact import Artifact, Failure

_CARD = re.compile(r"cards/(?:epoch_\d+|reference)/(?P<name>[A-Za-z0-9_]+)\.step_(?P<step>\d+)\.png")
_METRICS = re.compile(r"metrics/epoch_\d+\.json")
REFERENCE = "reference"
"""In place of the epoch's folder in the names of the reference cards, which belong to no epoch."""
DESCRIPTION_NAME = "description/run.json"
"""Outbox name of the latest description."""
_BEGIN, _END = "<!-- recon-log: written by the training; text outside is kept -->", "<!-- recon-log end -->"


@dataclass(frozen=True)
class _JsonRecord:
    """Base of the records stored as JSON."""

    def to_json(self) -> bytes:
        """Serialise the record as UTF-8 JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Parse the output of `to_json`.

        Raises:
            ValueError: The text is not JSON.
            TypeError: The fields differ.
        """
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Metrics(_JsonRecord):
    """Metrics of one step."""

    step: int
    time_ms: int
    """Milliseconds since 1970. Part of a metric's identity in MLflow: a retry must log the same time."""
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Description(_JsonRecord):
    """Content of a run's description."""

    title: str
    summary: str
    """Path of the summary picture among the run's artifacts."""
    values: Mapping[str, str]
    """Formatted metrics with units, by label."""


Card: TypeAlias = tuple[str, int]
"""(key, step) of an image card in MLflow."""


def metrics_name(folder: str) -> str:
    """Return the outbox name of an epoch's metrics; `folder` is the epoch's, such as epoch_05."""
    return f"metrics/{folder}.json"


def card_name(folder: str, name: str, step: int) -> str:
    """Return the outbox name of an image card; `folder` is the epoch's, or `REFERENCE`."""
    return f"cards/{folder}/{name}.step_{step}.png"


def is_file(name: str) -> bool:
    """Return whether an outbox name belongs to a file rather than to one of the records above."""
    return not (is_metrics(name) or name == DESCRIPTION_NAME or card_of(name))


def is_metrics(name: str) -> bool:
    """Return whether an outbox name belongs to `Metrics`."""
    return _METRICS.fullmatch(name) is not None


def noting_metrics(artifacts: Iterator[Artifact | Failure], metrics: dict[str, float]) -> Iterator[Artifact | Failure]:
    """Yield the artifacts, and copy the values of their `Metrics` to `metrics`."""
    for made in artifacts:
        if isinstance(made, Artifact) and is_metrics(made.path):
            metrics.update(Metrics.from_json(made.data).values)
        yield made


def card_of(name: str) -> Card | None:
    """Return the image card of an outbox name; None for other names."""
    match = _CARD.fullmatch(name)
    return (f"recon/{match['name']}", int(match["step"])) if match else None


def merged_description(text: str, latest: Description, run_id: str, experiment_id: str, folder: str = "") -> str:
    """Update this program's section of a run's description and keep everything else.

    Args:
        text: The current description.
        latest: New content of the section.
        run_id: Run id.
        experiment_id: Id of the run's experiment.
        folder: Artifact folder of the training; empty: the run's root.
    """
    root = PurePosixPath(folder)
    picture = f"get-artifact?path={quote(str(root / latest.summary), safe='')}&run_uuid={run_id}"
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    numbers = " · ".join(f"{label} **{value}**" for label, value in latest.values.items())
    links = f"[gallery]({page}/artifacts/{root / 'recon_log/gallery.html'}) · [image cards]({page}/model-metrics)"
    lines = [f"**{latest.title}** · {links}", numbers, f"![{latest.title}]({picture})"]  # MLflow folds what follows
    section = "\n\n".join([_BEGIN, *filter(None, lines), _END])
    begin, end = text.find(_BEGIN), text.find(_END)
    if 0 <= begin < end:
        return text[:begin] + section + text[end + len(_END) :]
    return f"{text}\n\n{section}" if text.strip() else section
