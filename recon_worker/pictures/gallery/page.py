"""The gallery: one HTML file that shows how the reconstruction formed, epoch by epoch. It needs nothing but itself.

It holds small versions of the pictures. Their number is bounded: when the file would be larger than its limit, epochs
lose their pictures, evenly over the run; the first, the last and the most recent ones keep theirs. The numbers of all
epochs stay. Layout, style and script of the page are the files in `gallery_page/`.
"""

import functools
import html
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from recon_worker.pictures.gallery.entry import GalleryEntry, PngStore, entry_from_dict, gallery_entry
from recon_worker.pictures.labels import metric_label
from recon_worker.pictures.views import METRICS

__all__ = ["MAX_BYTES", "GalleryEntry", "entries_of", "gallery_entry", "gallery_html", "thinned"]

MAX_BYTES = 4 << 20
"""Size of the file at most, unless the epochs that keep their pictures in any case are larger."""
_RECENT = 3
"""The last epochs, and the first, keep their pictures in any case."""
_VERSION = 1
_SCRIPTS = ("decode.js", "canvas.js", "curves.js", "app.js")
_DATA = re.compile(rb'<script id="data" type="application/json">(.*?)</script>', re.DOTALL)


def thinned(entries: Iterable[GalleryEntry], max_bytes: int = MAX_BYTES) -> list[GalleryEntry]:
    """The entries in the order of epochs, of which as few as needed have lost their pictures.

    Stable: what is thinned already stays as it is, so entries may be added one by one, thinning each time; the epochs
    with pictures stay evenly spread. Of two entries of the same epoch, the later one counts.
    """
    kept = sorted({entry.epoch: entry for entry in entries}.values(), key=lambda entry: entry.epoch)
    costs = [_cost(entry) for entry in kept]
    while _total(costs) > max_bytes - len(_frame()) and (crowded := _most_crowded(kept)) is not None:
        kept[crowded] = kept[crowded].without_pictures()
        costs[crowded] = _cost(kept[crowded])
    return kept


def _cost(entry: GalleryEntry) -> tuple[int, dict[str, int]]:
    """Bytes of the numbers, and of each picture by its name."""
    store = PngStore()
    return len(json.dumps(entry.to_dict(store))), store.text_bytes()


def _total(costs: list[tuple[int, dict[str, int]]]) -> int:
    """Bytes in the file; pictures that are the same count once."""
    pictures: dict[str, int] = {}
    for _, own in costs:
        pictures |= own
    return sum(numbers for numbers, _ in costs) + sum(pictures.values())


def _most_crowded(entries: list[GalleryEntry]) -> int | None:
    """Of the entries that may lose their pictures, the one whose neighbours with pictures are closest; the later one
    if there are several. None: there is none."""
    shown = [place for place, entry in enumerate(entries) if entry.has_pictures]
    gaps = [
        (entries[after].epoch - entries[before].epoch, -place)
        for before, place, after in zip(shown, shown[1:], shown[2:], strict=False)
        if place < len(entries) - _RECENT
    ]
    return -min(gaps)[1] if gaps else None


def gallery_html(entries: Iterable[GalleryEntry], *, title: str = "", max_bytes: int = MAX_BYTES) -> bytes:
    """The page, UTF-8. The same entries give the same bytes.

    Args:
        entries: Epochs in any order, at least one; thinned to max_bytes.
        title: Such as the name of the run.
        max_bytes: Size of the page at most, unless the first and the last three epochs alone are larger.

    Raises:
        ValueError: There are no entries.
    """
    kept = thinned(entries, max_bytes)
    if not kept:
        raise ValueError("a gallery shows at least one epoch; there is none.")
    store = PngStore()
    data = {"version": _VERSION, "title": title, "labels": _labels(kept)}
    data |= {"entries": [entry.to_dict(store) for entry in kept], "pictures": store.pictures}
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no "</script>" ends the data early
    return _frame().replace("{{title}}", html.escape(title)).replace("{{data}}", text).encode()


def _labels(entries: list[GalleryEntry]) -> dict[str, dict[str, str]]:
    """How each number is called, in the order in which they are shown."""
    found = {name: None for entry in entries for numbers in entry.all_metrics() for name in numbers}
    ordered = [*(name for name in METRICS if name in found), *sorted(found.keys() - METRICS.keys())]
    labels = {name: metric_label(name) for name in ordered}
    return {name: {"label": one.label, "unit": one.unit, "better": one.better} for name, one in labels.items()}


@functools.cache
def _frame() -> str:
    """The page without title and data."""
    page = files("recon_worker.pictures.gallery") / "html"
    script = "\n".join((page / name).read_text("utf-8") for name in _SCRIPTS)
    style = (page / "style.css").read_text("utf-8")
    return (page / "page.html").read_text("utf-8").replace("{{style}}", style).replace("{{script}}", script)


def entries_of(page: bytes) -> list[GalleryEntry]:
    """The entries of a page of `gallery_html`, to go on with them.

    Raises:
        ValueError: The page was not made by `gallery_html`, by another version of it, or is damaged.
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
        raise ValueError(f"the gallery is of version {version!r}; this program reads {_VERSION}.")
    return [entry_from_dict(entry, pictures) for entry in entries]
