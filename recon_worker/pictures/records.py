"""Records that MLflow stores in its own form: metrics, image cards, the run description.

Each waits in the outbox as a file whose name encodes its kind, so that it is kept and retried like an artifact:

    metrics/epoch_05.json                         -> log_batch
    cards/epoch_05/stitched_amp.step_165.png      -> log_image(key="recon/stitched_amp", step=165)
    cards/reference/stitched_amp.step_0.png       -> log_image(key="recon/stitched_amp", step=0)
    cards/epoch_05/latest.step_0.time_1796.png    -> log_image(key="recon/latest", step=0, timestamp=1796)
    description/run.json                          -> the tag that MLflow shows as the run's description

Logging a record is idempotent.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from recon_worker.snapshot.artifact import Artifact, Failure

_CARD = re.compile(
    r"cards/(?:epoch_\d+|reference)/(?P<name>[A-Za-z0-9_]+)\.step_(?P<step>\d+)(\.time_(?P<time_ms>\d+))?\.png"
)
_METRICS = re.compile(r"metrics/epoch_\d+\.json")
LATEST = "latest"
"""Name of the card that shows the newest epoch. All its pictures have step 0: MLflow shows the one with the latest
timestamp. That is the time of the snapshot, so the order of uploads does not matter."""
REFERENCE = "reference"
"""Replaces the epoch's folder in the names of the reference cards, which belong to no epoch."""
DESCRIPTION_NAME = "description/run.json"
"""Outbox name of the latest description."""
_PER_LINE = 4
"""Numbers per line of the description: the picture below is wider than the page, so MLflow does not wrap lines."""
_SECTION = re.compile(
    r"<!-- recon-log(?: (?P<time_ms>\d+) (?P<digest>[0-9a-f]{8}))?: written by the training; text outside is kept -->"
    r"(?P<content>.*?)<!-- recon-log end -->",
    re.DOTALL,
)
"""This program's section of a description. Earlier versions wrote neither time nor digest."""


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
    alert: str = ""
    """Problems of this epoch's reconstruction that occur for the first time in the run; empty: none."""
    alerts: str = ""
    """All alerts of the run so far, for a tag of the run."""


@dataclass(frozen=True, kw_only=True)
class Description(_JsonRecord):
    """Content of a run's description."""

    title: str
    summary: str
    """Path of the summary picture among the run's artifacts."""
    values: Mapping[str, str]
    """Formatted metrics with units, by label."""
    time_ms: int = 0
    """Time of the snapshot, milliseconds since 1970."""
    beside_text: bool = True
    """Whether to add it to a description that the user has written; False: only if there is none."""


class Card(NamedTuple):
    """A picture on one of MLflow's image cards."""

    key: str
    step: int
    time_ms: int | None = None
    """Timestamp, milliseconds since 1970, which distinguishes pictures of one step (`LATEST`); None: not needed."""


def metrics_name(folder: str) -> str:
    """Return the outbox name of an epoch's metrics; `folder` is the epoch's, such as epoch_05."""
    return f"metrics/{folder}.json"


def card_name(folder: str, name: str, step: int, time_ms: int | None = None) -> str:
    """Return the outbox name of a picture of a `Card`; `folder` is the epoch's, or `REFERENCE`."""
    time = "" if time_ms is None else f".time_{time_ms}"
    return f"cards/{folder}/{name}.step_{step}{time}.png"


def is_file(name: str) -> bool:
    """Return whether an outbox name belongs to a file rather than to one of the records above."""
    return not (is_metrics(name) or name == DESCRIPTION_NAME or card_of(name))


def is_metrics(name: str) -> bool:
    """Return whether an outbox name belongs to `Metrics`."""
    return _METRICS.fullmatch(name) is not None


def noting_metrics(artifacts: Iterator[Artifact | Failure], report: dict[str, Any]) -> Iterator[Artifact | Failure]:
    """Yield the artifacts, and copy `metrics` and `alert` of their `Metrics` to `report`."""
    for made in artifacts:
        if isinstance(made, Artifact) and is_metrics(made.path):
            record = Metrics.from_json(made.data)
            report |= {"metrics": record.values, "alert": record.alert}
        yield made


def card_of(name: str) -> Card | None:
    """Return the image card of an outbox name; None for other names."""
    match = _CARD.fullmatch(name)
    if match is None:
        return None
    return Card(f"recon/{match['name']}", int(match["step"]), int(match["time_ms"]) if match["time_ms"] else None)


def merged_description(text: str, latest: Description, run_id: str, experiment_id: str, folder: str = "") -> str:
    """Update this program's section of a run's description and keep everything else.

    A section that shows a newer snapshot, or that the user has edited, stays as it is.

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
    shown = [f"{label} **{value}**" for label, value in latest.values.items()]
    rows = [" · ".join(shown[first : first + _PER_LINE]) for first in range(0, len(shown), _PER_LINE)]
    links = f"[gallery]({page}/artifacts/{root / 'recon_log/gallery.html'}) · [image cards]({page}/model-metrics)"
    lines = [
        f"**{latest.title}** · {links}",
        "\n".join(rows),
        f"![{latest.title}]({picture})",
    ]  # numbers above the picture: MLflow collapses the end of a long description
    content = "\n\n".join(filter(None, lines))
    begin = f"<!-- recon-log {latest.time_ms} {_digest(content)}: written by the training; text outside is kept -->"
    section = f"{begin}\n\n{content}\n\n<!-- recon-log end -->"
    if (found := _SECTION.search(text)) is None:
        if not text.strip():
            return section
        return f"{text}\n\n{section}" if latest.beside_text else text
    newer = int(found["time_ms"] or 0) > latest.time_ms
    edited = found["digest"] not in (None, _digest(found["content"]))
    return text if newer or edited else text[: found.start()] + section + text[found.end() :]


def _digest(content: str) -> str:
    """Return a digest of text that editors do not change by trimming or wrapping it."""
    return hashlib.blake2b(" ".join(content.split()).encode(), digest_size=4).hexdigest()
