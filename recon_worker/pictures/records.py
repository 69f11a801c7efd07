"""What MLflow gets other than as a file: numbers, image cards, the run's description.

Each waits in the outbox as a file of its own kind, so that it is retried and survives like any artifact:

    metrics/epoch_05.json                         -> log_batch
    cards/epoch_05/stitched_amp.step_165.png      -> log_image(key="recon/stitched_amp", step=165)
    description/run.json                          -> the tag that MLflow shows as the run's description

Delivering one twice changes nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

_CARD = re.compile(r"cards/epoch_\d+/(?P<name>[A-Za-z0-9_]+)\.step_(?P<step>\d+)\.png")
_METRICS = re.compile(r"metrics/epoch_\d+\.json")
DESCRIPTION_NAME = "description/run.json"
"""Where the latest description waits."""
_BEGIN, _END = "<!-- recon-log: written by the training; text outside is kept -->", "<!-- recon-log end -->"


@dataclass(frozen=True, kw_only=True)
class Card:
    """Which image card of the run's page a picture belongs to."""

    key: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Metrics of one step."""

    step: int
    time_ms: int
    """Since 1970. Part of what makes a metric the same one when it is logged again."""
    values: Mapping[str, float]

    def to_json(self) -> bytes:
        """For `from_json`."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Numbers":
        """What `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Latest:
    """What the description of a run shows."""

    title: str
    summary: str
    """Path of the picture among the run's artifacts."""
    values: Mapping[str, str]
    """Numbers by their label, with units."""

    def to_json(self) -> bytes:
        """For `from_json`."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Latest":
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def metrics_name(folder: str) -> str:
    """Where the numbers of an epoch wait; `folder`: the epoch's, such as epoch_05."""
    return f"metrics/{folder}.json"


def card_name(folder: str, name: str, step: int) -> str:
    """Where an image card waits."""
    return f"cards/{folder}/{name}.step_{step}.png"


def is_file(name: str) -> bool:
    """Whether what waits under this name is a file for MLflow, and not one of the above."""
    return not (is_metrics(name) or is_description(name) or card_of(name))


def is_metrics(name: str) -> bool:
    """Whether it is `Numbers`."""
    return _METRICS.fullmatch(name) is not None


def is_description(name: str) -> bool:
    """Whether it is `Latest`."""
    return name == DESCRIPTION_NAME


def card_of(name: str) -> Card | None:
    """Which card it is; None if it is none."""
    match = _CARD.fullmatch(name)
    return Card(key=f"recon/{match['name']}", step=int(match["step"])) if match else None


def merged_description(text: str, latest: Latest, run_id: str, experiment_id: str, folder: str = "") -> str:
    """A run's description with our part brought up to date, and everything else as it was.

    Args:
        text: The description so far.
        latest: What to show.
        run_id: The run.
        experiment_id: Its experiment.
        folder: Below which the training's artifacts lie; empty: in the run's own.
    """
    place = PurePosixPath(folder)
    picture = f"get-artifact?path={quote(str(place / latest.summary), safe='')}&run_uuid={run_id}"
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    numbers = " · ".join(f"{label} **{value}**" for label, value in latest.values.items())
    links = f"[gallery]({page}/artifacts/{place / 'recon_log/gallery.html'}) · [image cards]({page}/model-metrics)"
    lines = [f"**{latest.title}** · {links}", numbers, f"![{latest.title}]({picture})"]  # MLflow folds what is below
    own = "\n\n".join([_BEGIN, *filter(None, lines), _END])
    begin, end = text.find(_BEGIN), text.find(_END)
    if 0 <= begin < end:
        return text[:begin] + own + text[end + len(_END) :]
    return f"{text}\n\n{own}" if text.strip() else own
