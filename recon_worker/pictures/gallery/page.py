"""Gallery: one self-contained HTML file that shows the reconstruction epoch by epoch.

Misfits of samples are kept for the newest epochs, as many as fit in a quarter of the size limit. Above the limit,
thumbnails are dropped evenly over the run, except those of the first and the latest epochs. The metrics of all epochs
are kept. Markup, style and script are in `html/`.
"""

import base64
import dataclasses
import functools
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from recon_worker.pictures.gallery.entry import GalleryEntry
from recon_worker.pictures.labels import METRICS, metric_label

MAX_BYTES = 4 << 20
"""Size limit of the file; exceeded only if the epochs that always keep their thumbnails require it."""
_RECENT = 3
"""Number of latest epochs that, like the first, always keep their thumbnails."""
_MISFIT_SHARE = 4
"""One over the part of the space for entries that the misfits of samples may take."""
_VERSION = 1
_SCRIPTS = (
    *("page.js", "entries.js", "decode.js", "canvas.js", "curves.js", "misfit.js", "values.js", "plot.js"),
    *("histogram.js", "profile.js", "files.js", "npy.js", "link.js", "keys.js", "app.js"),
)
_DATA = re.compile(rb'<script id="data" type="application/json">(.*?)</script>', re.DOTALL)


def thinned(entries: Iterable[GalleryEntry], max_bytes: int = MAX_BYTES) -> list[GalleryEntry]:
    """Sort entries by epoch, drop misfits of older ones, and thumbnails of as few as the size limit requires.

    Idempotent: entries can be added one by one, and the epochs with thumbnails stay evenly spread. A later entry
    replaces an earlier one of the same epoch.
    """
    every = list(entries)
    return within(every, max_bytes - len(_page(every, {"entries": [], "pictures": {}})))


def within(entries: Iterable[GalleryEntry], max_bytes: int) -> list[GalleryEntry]:
    """Do what `thinned` does for entries that may take max_bytes, without the rest of a page."""
    kept = sorted({entry.epoch: entry for entry in entries}.values(), key=lambda entry: entry.epoch)
    kept = _with_newest_misfits(kept, max_bytes // _MISFIT_SHARE)
    while True:
        pictures = {name: size for entry in kept for name, size in entry.sizes[1].items()}  # equal ones count once
        total = sum(entry.sizes[0] + len(", ") for entry in kept) + sum(pictures.values())
        if total <= max_bytes or (crowded := _most_crowded(kept)) is None:
            return kept
        kept[crowded] = kept[crowded].with_figures(thumbnails={}, misfit=None)


def _with_newest_misfits(entries: Sequence[GalleryEntry], max_bytes: int) -> list[GalleryEntry]:
    """Drop the misfits of all but the newest epochs: of those, as many keep theirs as fit in max_bytes."""
    kept, sizes = list[GalleryEntry](), dict[str, int]()
    for entry in reversed(entries):
        sizes |= {name: entry.sizes[1][name] for name in entry.misfit_names}
        fits = not entry.misfit_names or sum(sizes.values()) <= max_bytes
        kept.append(entry if fits else entry.with_figures(misfit=None))
    return kept[::-1]


def _most_crowded(entries: list[GalleryEntry]) -> int | None:
    """Return the index of the entry whose neighbours with thumbnails are closest, the last on a tie; or None."""
    shown = [index for index, entry in enumerate(entries) if any(one.thumbnails for one in entry.figures)]
    gaps = [
        (entries[after].epoch - entries[before].epoch, -index)
        for before, index, after in zip(shown, shown[1:], shown[2:], strict=False)
        if index < len(entries) - _RECENT
    ]
    return -min(gaps)[1] if gaps else None


def gallery_html(entries: Iterable[GalleryEntry], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the gallery as UTF-8 HTML. Deterministic.

    Args:
        entries: Epochs in any order, at least one; thinned to max_bytes.
        max_bytes: Size limit, unless the first and the last three epochs alone exceed it.

    Raises:
        ValueError: `entries` is empty.
    """
    kept = thinned(entries, max_bytes)
    if not kept:
        raise ValueError("a gallery shows at least one epoch; there is none.")
    pngs: dict[str, bytes] = {}
    dicts = [entry.to_dict(pngs) for entry in kept]
    return _page(kept, {"entries": dicts, "pictures": base64_texts(pngs)})


def _page(entries: Iterable[GalleryEntry], content: Mapping[str, Any]) -> bytes:
    head = "<title>Reconstruction</title>"
    page = template(head, in_gallery("page.html"), in_gallery("style.css"), in_gallery(*_SCRIPTS))
    return filled(page, {"version": _VERSION, "labels": labels_of(entries), **content})


def in_gallery(*names: str) -> tuple[str, ...]:
    """Return the paths of files of the gallery's pages, below `pictures`."""
    return tuple(f"gallery/html/{name}" for name in names)


@functools.cache
def template(head: str, body: Sequence[str], styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Return a page, without title and data: further elements of its head, and files as paths below `pictures`."""
    pictures = files("recon_worker.pictures")

    def read(paths: Iterable[str]) -> str:
        return "\n".join((pictures / path).read_text("utf-8") for path in paths)

    values = {"head": head, "style": read(styles), "body": read(body), "script": read(scripts)}
    return _filled_in(read(in_gallery("frame.html")), values)


def filled(page: str, data: Mapping[str, Any], title: str = "") -> bytes:
    """Return a template with its data and, if it shows one, its title, as UTF-8."""
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # "</script>" would end the data
    return _filled_in(page, {"title": html.escape(title), "data": text}).encode()


def _filled_in(text: str, values: Mapping[str, str]) -> str:
    """Replace `{{name}}` by its value, all in one pass, because values may hold such text."""
    return re.sub(rf"\{{\{{({'|'.join(values)})\}}\}}", lambda found: values[found[1]], text)


def labels_of(entries: Iterable[GalleryEntry]) -> dict[str, dict[str, str]]:
    """Return the labels of all metrics of the entries, in display order."""
    metrics = [one for entry in entries for one in (entry.metrics, *(figure.metrics for figure in entry.figures))]
    found = {name for one in metrics for name in one}
    ordered = [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]
    return {name: dataclasses.asdict(metric_label(name)) for name in ordered}


def base64_texts(pngs: Mapping[str, bytes]) -> dict[str, str]:
    """Return PNGs as text, by name."""
    return {name: base64.b64encode(png).decode() for name, png in pngs.items()}


def entries_of(page: bytes) -> list[GalleryEntry]:
    """Read the entries back from a page written by `gallery_html`.

    Raises:
        ValueError: The page has no gallery data, an unsupported version, or damaged data.
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
