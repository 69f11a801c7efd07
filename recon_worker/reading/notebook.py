"""A run as HTML for notebooks: its state, its latest metrics, and thumbnails of its latest epoch, inline."""

import base64
import html
from collections.abc import Iterator, Sequence

from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryFigure
from recon_worker.pictures.labels import METRICS, Kind, length_text, metric_label, metric_value

_KINDS: dict[Kind, str] = {
    "amp_pred": "amplitude, predicted",
    "amp_gt": "amplitude, truth",
    "phase_pred": "phase, predicted",
    "phase_gt": "phase, truth",
}
_METRICS = 4
_LISTED = 12
"""Maximum number of epochs that are listed one by one; of more, only the first and the last three are."""
_MAX_PNG_BYTES = 1 << 18


def run_html(
    name: str, run_id: str, status: str, epochs: Sequence[int], entries: Sequence[GalleryEntry], error: str = ""
) -> str:
    """Return the summary of a run.

    Args:
        name: Name of the run.
        run_id: MLflow run.
        status: MLflow's status.
        epochs: Logged epochs.
        entries: Gallery entries of the epochs.
        error: Why epochs and entries cannot be read, shown instead of them; empty: they can.
    """
    rows = {"run": run_id, "status": status, "epochs": _listed(epochs) if epochs else "none"}
    pictures = ""
    if error:
        rows["epochs"] = error
    if (entry := next((one for one in reversed(entries) if any(f.thumbnails for f in one.figures)), None)) is not None:
        figure = next(one for one in entry.figures if one.thumbnails)
        rows |= _facts(entry, figure)
        pictures = "".join(_pictures(figure))
    left = 'style="text-align:left;white-space:nowrap"'
    cells = "".join(
        f'<tr><th {left}>{html.escape(label)}</th><td style="text-align:left">{html.escape(value)}</td></tr>'
        for label, value in rows.items()
    )
    head = f"<strong>{html.escape(name)}</strong>"
    return f'<div>{head}<table style="margin:6px 0">{cells}</table><div>{pictures}</div></div>'


def _listed(epochs: Sequence[int]) -> str:
    if len(epochs) <= _LISTED:
        return ", ".join(map(str, epochs))
    first, last = (", ".join(map(str, part)) for part in (epochs[:3], epochs[-3:]))
    return f"{first}, …, {last} ({len(epochs)} in total)"


def _facts(entry: GalleryEntry, figure: GalleryFigure) -> Iterator[tuple[str, str]]:
    """Yield label and value of each fact about the latest epoch."""
    height, width = next(iter(figure.thumbnails.values())).full_size
    size = "" if entry.pixel_size_m is None else f", pixel {length_text(entry.pixel_size_m)}"
    yield figure.name.replace("_", " "), f"{width} × {height} px{size}"
    metrics = {**entry.metrics, **figure.metrics}
    shown = [name for name in METRICS if name in metrics][:_METRICS]
    values = (f"{metric_label(name).label} {metric_value(name, metrics[name])}" for name in shown)
    yield f"epoch {entry.epoch}", " · ".join([f"step {entry.step}", *values])


def _pictures(figure: GalleryFigure) -> Iterator[str]:
    for kind, label in _KINDS.items():
        if (one := figure.thumbnails.get(kind)) is not None and len(one.png) <= _MAX_PNG_BYTES:
            source = f"data:image/png;base64,{base64.b64encode(one.png).decode()}"
            yield (
                '<figure style="display:inline-block;margin:0 8px 0 0">'
                f'<img src="{source}" alt="{label}" style="height:192px;image-rendering:pixelated">'
                f'<figcaption style="font-size:small">{label}</figcaption></figure>'
            )
