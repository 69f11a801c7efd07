"""The gallery: one self-contained HTML file that shows how the reconstruction formed, epoch by epoch.

It holds thumbnails up to a size limit. Beyond the limit epochs lose their thumbnails, evenly over the run; the first,
the last and the most recent ones keep theirs. The metrics of all epochs stay. Markup, style and script are in `html/`.
"""

import base64
import dataclasses
import functools
import html
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from recon_worker.pictures.gallery.entry import GalleryEntry
from recon_worker.pictures.labels import METRICS, metric_label

MAX_BYTES = 4 << 20
"""Size limit of the file, unless the epochs that always keep their thumbnails are larger."""
_RECENT = 3
"""Number of latest epochs that, like the first, always keep their thumbnails."""
_VERSION = 1
_SCRIPTS = ("decode.js", "canvas.js", "curves.js", "app.js")
_DATA = re.compile(rb'<script id="data" type="application/json">(.*?)</script>', re.DOTALL)


def thinned(entries: Iterable[GalleryEntry], max_bytes: int = MAX_BYTES) -> list[GalleryEntry]:
    """Sort entries by epoch and drop the thumbnails of as few as the size limit demands.

    The result is stable: thinning it again changes nothing, so entries can be added one by one, and the epochs with
    thumbnails stay evenly spread. Of two entries of the same epoch the later one counts.
    """
    kept = sorted({entry.epoch: entry for entry in entries}.values(), key=lambda entry: entry.epoch)
    sizes = [_sizes(entry) for entry in kept]
    while True:
        pictures = {name: size for _, own in sizes for name, size in own.items()}  # equal ones count once
        total = len(_frame()) + sum(metrics for metrics, _ in sizes) + sum(pictures.values())
        if total <= max_bytes or (crowded := _most_crowded(kept)) is None:
            return kept
        kept[crowded] = kept[crowded].without_pictures()
        sizes[crowded] = _sizes(kept[crowded])


def _sizes(entry: GalleryEntry) -> tuple[int, dict[str, int]]:
    """Return the bytes that the metrics take in the file, and those of each thumbnail by name."""
    pngs: dict[str, bytes] = {}
    metrics = len(json.dumps(entry.to_dict(pngs)))
    return metrics, {name: len(name) + 4 * -(-len(png) // 3) + 8 for name, png in pngs.items()}


def _most_crowded(entries: list[GalleryEntry]) -> int | None:
    """Return the index, the largest of several, of the entry between the two closest that have thumbnails, if any."""
    shown = [index for index, entry in enumerate(entries) if any(one.thumbnails for one in entry.figures)]
    gaps = [
        (entries[after].epoch - entries[before].epoch, -index)
        for before, index, after in zip(shown, shown[1:], shown[2:], strict=False)
        if index < len(entries) - _RECENT
    ]
    return -min(gaps)[1] if gaps else None


def gallery_html(entries: Iterable[GalleryEntry], *, title: str = "", max_bytes: int = MAX_BYTES) -> bytes:
    """Write the gallery, UTF-8. The same entries give the same bytes.

    Args:
        entries: Epochs in any order, at least one; thinned to max_bytes.
        title: Title of the page, such as the name of the run.
        max_bytes: Size limit, unless the first and the last three epochs alone exceed it.

    Raises:
        ValueError: There are no entries.
    """
    kept = thinned(entries, max_bytes)
    if not kept:
        raise ValueError("a gallery shows at least one epoch; there is none.")
    metrics = [one for entry in kept for one in (entry.metrics, *(figure.metrics for figure in entry.figures))]
    found = {name for one in metrics for name in one}
    ordered = [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]
    pngs: dict[str, bytes] = {}
    data = {
        "version": _VERSION,
        "title": title,
        "labels": {name: dataclasses.asdict(metric_label(name)) for name in ordered},
        "entries": [entry.to_dict(pngs) for entry in kept],
        "pictures": {name: base64.b64encode(png).decode() for name, png in pngs.items()},
    }
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # a "</script>" would end the data
    return _frame().replace("{{title}}", html.escape(title)).replace("{{data}}", text).encode()


@functools.cache
def _frame() -> str:
    """Return the page without title and data."""
    page = files("recon_worker.pictures.gallery") / "html"
    script = "\n".join((page / name).read_text("utf-8") for name in _SCRIPTS)
    style = (page / "style.css").read_text("utf-8")
    return (page / "page.html").read_text("utf-8").replace("{{style}}", style).replace("{{script}}", script)


def entries_of(page: bytes) -> list[GalleryEntry]:
    """Read the entries back from a page written by `gallery_html`.

    Raises:
        ValueError: The page has no gallery data, another version, or is damaged.
    """
    found = _DATA.search(page)
    if found is None:
        raise ValueError("this is not a gallery of this program: it holds no data.")
    try:
        data: dict[str, Any] = json.loads(found[1])
        version, pictures, entries = data["version"], data["pictures"], data["entries"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the gallery's data are damaged: {error}") from error
    if version != _VERSION:
        raise ValueError(f"the gallery has version {version!r}; this program reads version {_VERSION}.")
    return [GalleryEntry.from_dict(entry, pictures) for entry in entries]
