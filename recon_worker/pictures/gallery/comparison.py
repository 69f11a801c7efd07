"""Comparison: one self-contained HTML file that shows several runs side by side, epoch by epoch.

It holds the runs' gallery thumbnails of predictions and truth as they are. The page maps them to a common colour range
and computes differences. Above the size limit each run drops thumbnails as a gallery does.
"""

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryFigure
from recon_worker.pictures.gallery.page import base64_texts, filled, in_gallery, labels_of, template, within
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import palette, read_png

MAX_BYTES = 24 << 20
"""Size limit of the file, shared equally by the runs."""
MOST_RUNS = 10
"""Runs whose curves can be told apart."""
_KINDS: tuple[Kind, ...] = ("amp_pred", "amp_gt", "phase_pred", "phase_gt")
_DIFFERENCE_COLORMAP = "RdBu_r"
_SCRIPTS = (
    "page.js",
    "entries.js",
    "decode.js",
    "canvas.js",
    "curves.js",
    "values.js",
    "compare_pictures.js",
    "compare_metrics.js",
    "compare.js",
    "compare_controls.js",
)
_OTHER_BYTES = 1 << 15
"""Room for names, labels and colours."""
_SETTING_CHARACTERS = 200
_ABSENT = "\u2013"


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run to compare."""

    run_id: str
    name: str
    status: str
    """MLflow's status, such as "RUNNING"."""
    settings: Mapping[str, str]
    """Its settings by name, as text."""
    entries: Sequence[GalleryEntry]
    """Its gallery, sorted by epoch."""

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return (H, W) in pixels of each object and patch with thumbnails, by name."""
        return {
            figure.name: figure.thumbnails["amp_pred"].full_size
            for entry in self.entries
            for figure in entry.figures
            if {"amp_pred", "phase_pred"} <= figure.thumbnails.keys()
        }


def common_views(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the names of the objects that all runs have; without a common object, of the patches."""
    first, *others = (run.sizes() for run in runs)
    common = [name for name in first if all(name in other for other in others)]
    return [name for name in common if not name.startswith("patch_")] or common


def comparison_html(runs: Sequence[ComparedRun], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the page as UTF-8 HTML. Deterministic.

    Args:
        runs: Two to `MOST_RUNS` runs that have figures of the same name and size.
        max_bytes: Size limit, unless the first and the last three epochs of each run alone exceed it.

    Raises:
        Exception: A thumbnail is damaged. Pillow raises many types.
    """
    title, styles = "<title>Comparison {{title}}</title>", in_gallery("style.css", "compare.css")
    page = template(title, in_gallery("compare.html"), styles, in_gallery(*_SCRIPTS))
    views, settings = common_views(runs), differing_settings([run.settings for run in runs])
    share = (max_bytes - len(page.encode()) - len(json.dumps(settings)) - _OTHER_BYTES) // len(runs)
    runs = [dataclasses.replace(run, entries=within(_reduced(run.entries, views), share)) for run in runs]
    views = common_views(runs)  # thumbnails of an object that few epochs have may have been dropped
    names, pngs = _distinct_names(runs), dict[str, bytes]()
    data = {
        "labels": labels_of(entry for run in runs for entry in run.entries),
        "runs": [
            {
                "id": run.run_id,
                "name": name,
                "status": run.status,
                "entries": [one.to_dict(pngs) for one in run.entries],
            }
            for run, name in zip(runs, names, strict=True)
        ],
        "views": views,
        "colours": {view: _common_colours(view, runs) for view in views},
        "settings": settings,
        "difference_palette": _palette_text(_DIFFERENCE_COLORMAP),
        "pictures": base64_texts(pngs),
    }
    return filled(page, data, ", ".join(names))


def differing_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the settings that are not the same in all runs: the value in each run by name, a dash where absent."""
    names = sorted({name for one in settings for name in one})
    values = {name: [one.get(name, _ABSENT) for one in settings] for name in names}
    return {name: _shortened(one) for name, one in values.items() if len(set(one)) > 1}


def _shortened(values: Sequence[str]) -> list[str]:
    """Cut long values, so that their first difference is shown."""
    if max(map(len, values)) <= _SETTING_CHARACTERS:
        return list(values)
    equal = next(at for at, found in enumerate(zip_longest(*values)) if len(set(found)) > 1)
    start = max(0, equal - _SETTING_CHARACTERS // 4)
    return [("\u2026" if start else "") + one[start : start + _SETTING_CHARACTERS] for one in values]


def _distinct_names(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the names of the runs, with the start of the id where several runs have the same."""
    names = [run.name for run in runs]
    return [f"{run.name} ({run.run_id[:8]})" if names.count(run.name) > 1 else run.name for run in runs]


def _reduced(entries: Iterable[GalleryEntry], views: Sequence[str]) -> Iterable[GalleryEntry]:
    """Yield the entries with what the page shows: the compared figures, their metrics and some kinds of thumbnail."""
    for entry in entries:
        figures = []
        for name in views:
            for figure in (one for one in entry.figures if one.name == name):
                thumbnails = {kind: figure.thumbnails[kind] for kind in _KINDS if kind in figure.thumbnails}
                figures.append(dataclasses.replace(figure, thumbnails=thumbnails, tiles={}, misfit=None))
        yield dataclasses.replace(entry, figures=tuple(figures))


def _common_colours(view: str, runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Return range and colours of amplitude and phase that cover those of all runs, each at its latest epoch.

    A run's ranges are fixed from its first trained epoch on. The colours are those of the widest range.
    """
    latest = [_latest(view, run.entries) for run in runs]
    found = {}
    for part in ("amp", "phase"):
        pngs = {one.png for figure in latest for kind, one in figure.thumbnails.items() if kind.startswith(part)}
        images = [read_png(png) for png in sorted(pngs)]
        widest = max(images, key=lambda image: image.value_range[1] - image.value_range[0])
        lows, highs = zip(*(image.value_range for image in images), strict=True)
        found[part] = {"range": [min(lows), max(highs)], "palette": _palette_text(widest.colormap)}
    return found


def _palette_text(colormap: str) -> str:
    return base64.b64encode(palette(colormap).tobytes()).decode()


def _latest(view: str, entries: Sequence[GalleryEntry]) -> GalleryFigure:
    figures = (one for entry in reversed(entries) for one in entry.figures)
    return next(one for one in figures if one.name == view and one.thumbnails)
