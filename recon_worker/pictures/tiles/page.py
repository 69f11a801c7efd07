"""The viewer of tiled pictures, recon_log/tiles.html: one file that loads only the tiles it shows.

    opened from                          tiles from                            values from
    a folder on disk                     the folder above the page             the overview: browsers forbid more
    an HTTP server of such a folder      the folder above the page             the tiles
    MLflow's artifact preview            the server's address of artifacts     the overview

The page holds an overview of each picture of the newest epoch. It is all that a preview shows to which the server gives
no tiles. Markup, style and script are in `html/`; frame, keyboard and PNG decoder are the gallery's.
"""

import base64
import re
from collections.abc import Iterable
from typing import Any, get_args

from recon_worker.pictures.gallery.entry import GalleryEntry
from recon_worker.pictures.gallery.page import filled, in_gallery, template
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import encode_png
from recon_worker.pictures.tiles.pyramid import TILE_PX, TiledPictures

MAX_OVERVIEW_BYTES = 600_000
"""Size limit of all overviews, before base64 makes them a third larger."""
_ADDRESS = '<meta name="artifacts" content="{}">'
_ADDRESS_WIDTH = 96
_HEAD = f"{_ADDRESS.format(' ' * _ADDRESS_WIDTH)}\n<title>Object at full resolution</title>"
_BODY, _STYLES = ("tiles/html/page.html",), ("tiles/html/style.css",)
_SCRIPTS = (
    *in_gallery("page.js", "decode.js"),
    *("tiles/html/tiles.js", "tiles/html/viewer.js", "tiles/html/controls.js"),
)


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
    return filled(template(_HEAD, _BODY, _STYLES, _SCRIPTS), data)


def addressed(page: bytes, address: str) -> bytes:
    """Return the viewer with the address of its artifacts, which only the upload knows. The size does not change.

    Args:
        page: Output of `tiles_html`.
        address: "<run id>", or "<run id>/<folder of the training's artifacts in the run>".
    """
    if len(address) > _ADDRESS_WIDTH or not re.fullmatch(r"[A-Za-z0-9_/-]+", address):
        return page
    blank, named = (_ADDRESS.format(text.ljust(_ADDRESS_WIDTH)).encode() for text in ("", address))
    return page.replace(blank, named, 1)


def _epoch(entry: GalleryEntry) -> dict[str, Any]:
    tiles = {one.name: dict(one.tiles) for one in entry.figures if one.tiles}
    return {"epoch": entry.epoch, "step": entry.step, "tiles": tiles}


def _overviews(tiled: TiledPictures) -> dict[str, dict[str, Any]]:
    """Encode one overview per picture: of the largest level at which all fit the limit, or of the smallest."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    every = {(name, kind): found[kind] for name, found in tiled.pictures.items() for kind in kinds if kind in found}
    for skipped in range(max(len(one.overviews) for one in every.values())):
        pngs = {key: encode_png(one.overviews[min(skipped, len(one.overviews) - 1)]) for key, one in every.items()}
        if sum(map(len, pngs.values())) <= MAX_OVERVIEW_BYTES:
            break
    records: dict[str, dict[str, Any]] = {}
    for (name, kind), png in pngs.items():
        one = every[name, kind]
        record = {"folder": one.folder, "size": one.full_size, "png": base64.b64encode(png).decode()}
        records.setdefault(name, {})[kind] = record
    return records
