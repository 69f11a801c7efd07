"""Records that MLflow stores in its own form rather than as a file: metrics, image cards, the run description.

Each waits in the outbox as a file with a name of its own kind, so that it is retried and survives like any artifact:

    metrics/epoch_05.json                         -> log_batch
    cards/epoch_05/stitched_amp.step_165.png      -> log_image(key="recon/stitched_amp", step=165)
    description/run.json                          -> the tag that MLflow shows as the run's description

Logging a record twice changes nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Self, TypeAlias
from urllib.parse import quote

_CARD = re.compile(r"cards/epoch_\d+/(?P<name>[A-Za-z0-9_]+)\.step_(?P<step>\d+)\.png")
_METRICS = re.compile(r"metrics/epoch_\d+\.json")
DESCRIPTION_NAME = "description/run.json"
"""Outbox name of the latest description."""
_BEGIN, _END = "<!-- recon-log: written by the training; text outside is kept -->", "<!-- recon-log end -->"


@dataclass(frozen=True)
class _JsonRecord:
    """A record that is stored as JSON."""

    def to_json(self) -> bytes:
        """Serialise the record as UTF-8 JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Parse the output of `to_json`.

        Raises:
            ValueError: The text is not JSON.
            TypeError: It has other fields.
        """
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Metrics(_JsonRecord):
    """Metrics of one step."""

    step: int
    time_ms: int
    """Milliseconds since 1970. MLflow identifies a metric by it too, so a retry must log the same time."""
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Description(_JsonRecord):
    """What the description of a run shows."""

    title: str
    summary: str
    """Path of the summary picture among the run's artifacts."""
    values: Mapping[str, str]
    """Formatted metrics with units, by label."""


Card: TypeAlias = tuple[str, int]
"""(key, step) of an image card in MLflow."""


def metrics_name(folder: str) -> str:
    """Outbox name of an epoch's metrics; `folder`: the epoch's, such as epoch_05."""
    return f"metrics/{folder}.json"


def card_name(folder: str, name: str, step: int) -> str:
    """Outbox name of an image card."""
    return f"cards/{folder}/{name}.step_{step}.png"


def is_file(name: str) -> bool:
    """Whether an outbox name belongs to a file, not to one of the records above."""
    return not (is_metrics(name) or name == DESCRIPTION_NAME or card_of(name))


def is_metrics(name: str) -> bool:
    """Whether an outbox name belongs to `Metrics`."""
    return _METRICS.fullmatch(name) is not None


def card_of(name: str) -> Card | None:
    """Return the image card that an outbox name belongs to, if any."""
    match = _CARD.fullmatch(name)
    return (f"recon/{match['name']}", int(match["step"])) if match else None


def merged_description(text: str, latest: Description, run_id: str, experiment_id: str, folder: str = "") -> str:
    """Update this program's section of a run's description and keep everything else.

    Args:
        text: The current description.
        latest: What to show.
        run_id: The run.
        experiment_id: Its experiment.
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
