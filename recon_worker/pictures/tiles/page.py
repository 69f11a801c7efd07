"""The viewer of tiled pictures, recon_log/tiles.html: one file that loads only the tiles it shows.

    opened from                          tiles from                            values from
    a folder on disk                     the folder above the page             the overview: browsers forbid more
    an HTTP server of such a folder      the folder above the page             the tiles
    MLflow's artifact preview            the server's address of artifacts     the overview

The page holds an overview of each picture of the newest epoch. It is all that a preview shows to which the server gives
no tiles. Markup, style and script are in `html/`; the script shares the gallery's PNG decoder.
"""

import base64
import functools
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, get_args

from recon_worker.pictures.gallery.entry import GalleryEntry
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import Panel, encode_png
from recon_worker.pictures.tiles.pyramid import TILE_PX, TiledPicture, TiledPictures

MAX_OVERVIEW_BYTES = 600_000
"""Size limit of all overviews, before base64 makes them a third larger."""
_ADDRESS = '<meta name="artifacts" content="{}">'
_ADDRESS_WIDTH = 96


def tiles_html(entries: Iterable[GalleryEntry], tiled: TiledPictures) -> bytes:
    """Return the viewer as UTF-8 HTML. Deterministic.

    Args:
        entries: Logged epochs; those with tiles can be chosen.
        tiled: Pictures of the epoch rendered last, at least one, for the overviews.
    """
    data = {
        "tile_px": TILE_PX,
        "epochs": [_epoch(entry) for entry in entries if any(one.tiles for one in entry.figures)],
        "pictures": _overviews(tiled),
    }
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # "</script>" would end the data
    return _frame().replace("{{data}}", text).encode()


def addressed(page: bytes, address: str) -> bytes:
    """Return the viewer with the address of its artifacts, which only the upload knows. The size does not change.

    Args:
        page: Output of `tiles_html`.
        address: "<run id>", or "<run id>/<folder of the training's artifacts in the run>".
    """
    if len(address) > _ADDRESS_WIDTH or not re.fullmatch(r"[A-Za-z0-9_/-]+", address):
        return page
    blank, filled = (_ADDRESS.format(text.ljust(_ADDRESS_WIDTH)).encode() for text in ("", address))
    return page.replace(blank, filled, 1)


def _epoch(entry: GalleryEntry) -> dict[str, Any]:
    tiles = {one.name: dict(one.tiles) for one in entry.figures if one.tiles}
    return {"epoch": entry.epoch, "step": entry.step, "tiles": tiles}


def _overviews(tiled: TiledPictures) -> dict[str, dict[str, Any]]:
    """Encode one overview per picture: of the largest level at which all fit the limit, or of the smallest."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    every = {(name, kind): found[kind] for name, found in tiled.pictures.items() for kind in kinds if kind in found}
    for skipped in range(max(len(one.overviews) for one in every.values())):
        pngs = {key: encode_png(_level(one, skipped)) for key, one in every.items()}
        if sum(map(len, pngs.values())) <= MAX_OVERVIEW_BYTES:
            break
    records: dict[str, dict[str, Any]] = {}
    for (name, kind), png in pngs.items():
        one = every[name, kind]
        record = {"folder": one.folder, "size": one.full_size, "png": base64.b64encode(png).decode()}
        records.setdefault(name, {})[kind] = record
    return records


def _level(picture: TiledPicture, skipped: int) -> Panel:
    return picture.overviews[min(skipped, len(picture.overviews) - 1)]


@functools.cache
def _frame() -> str:
    """Return the page without data and address."""
    page, gallery = files("recon_worker.pictures.tiles") / "html", files("recon_worker.pictures.gallery") / "html"
    scripts = (gallery / "decode.js", *(page / name for name in ("tiles.js", "viewer.js", "controls.js")))
    script = "\n".join(one.read_text("utf-8") for one in scripts)
    text = (page / "page.html").read_text("utf-8").replace("{{style}}", (page / "style.css").read_text("utf-8"))
    return text.replace("{{address}}", _ADDRESS.format(" " * _ADDRESS_WIDTH)).replace("{{script}}", script)
