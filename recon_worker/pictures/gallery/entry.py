"""What the gallery keeps of an epoch: numbers and small pictures, and how they are written as JSON."""

import base64
import binascii
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_args

from recon_worker.pictures.png import encode_panel
from recon_worker.pictures.resizing import block_to_fit, shrunk
from recon_worker.pictures.views import Kind, ObjectView, Panel, Sheet, epoch_label

_Json: TypeAlias = Any
"""What `json.loads` gives; checked by use."""
THUMBNAIL_PX = 256
"""Longer side of a small picture at most."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small version of a picture."""

    png: bytes
    """Of `rendering.encode_png`."""
    full_size: tuple[int, int]
    """(H, W) of the picture, pixels."""
    block_px: int
    """One pixel is the mean over a square of this side; 1: as the picture."""


@dataclass(frozen=True, kw_only=True)
class GalleryView:
    """An object or a patch at one epoch."""

    name: str
    """Folder of the full-size pictures below the epoch's."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[Kind, Thumbnail] = field(default_factory=dict)
    """Empty: given up for the size of the file."""


@dataclass(frozen=True, kw_only=True)
class GalleryEntry:
    """What the gallery keeps of an epoch."""

    epoch: int
    step: int
    folder: str
    """Of the full-size pictures, such as "epoch_05"."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    views: tuple[GalleryView, ...] = ()
    pixel_size_m: float | None = None

    @property
    def label(self) -> str:
        """Such as "Epoch 5"."""
        return epoch_label(self.epoch)

    @property
    def has_pictures(self) -> bool:
        """Whether it still has its pictures."""
        return any(view.pictures for view in self.views)

    def all_metrics(self) -> Iterator[Mapping[str, float]]:
        """The numbers of the epoch, then those of each view."""
        yield self.metrics
        yield from (view.metrics for view in self.views)

    def sharing(self, other: "GalleryEntry") -> "GalleryEntry":
        """The same entry; pictures that `other` has too, such as the ground truth, are in memory only once."""
        own = {picture.png: picture for view in other.views for picture in view.pictures.values()}
        views = (
            dataclasses.replace(view, pictures={kind: own.get(one.png, one) for kind, one in view.pictures.items()})
            for view in self.views
        )
        return dataclasses.replace(self, views=tuple(views))

    def without_pictures(self) -> "GalleryEntry":
        """The numbers alone."""
        return dataclasses.replace(self, views=tuple(dataclasses.replace(view, pictures={}) for view in self.views))

    def to_json(self) -> str:
        """For `from_json`; one line of ASCII. Numbers that are not finite come back as NaN."""
        store = PngStore()
        return json.dumps({"entry": self.to_dict(store), "pictures": store.pictures}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "GalleryEntry":
        """What `to_json` wrote.

        Raises:
            ValueError: The text is something else.
        """
        try:
            record = json.loads(text)
            entry, pictures = record["entry"], record["pictures"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"this is not an entry of a gallery: {error!r}") from error
        return entry_from_dict(entry, pictures)

    def to_dict(self, store: "PngStore") -> dict[str, Any]:
        """As JSON, with the pictures in a store."""
        views = [
            {
                "name": view.name,
                "metrics": _finite(view.metrics),
                "pictures": {
                    kind: {"png": store.add(one.png), "full_size": list(one.full_size), "block_px": one.block_px}
                    for kind, one in view.pictures.items()
                },
            }
            for view in self.views
        ]
        facts = {"epoch": self.epoch, "step": self.step, "folder": self.folder, "pixel_size_m": self.pixel_size_m}
        return facts | {"metrics": _finite(self.metrics), "views": views}


class PngStore:
    """Pictures as base64 text, each kept once: the ground truth is the same in every epoch."""

    def __init__(self) -> None:
        self._pngs: dict[str, bytes] = {}

    def add(self, png: bytes) -> str:
        """Keep a picture and tell its name, which is made from the content."""
        name = hashlib.blake2b(png, digest_size=9).hexdigest()
        self._pngs.setdefault(name, png)
        return name

    @property
    def pictures(self) -> dict[str, str]:
        """The texts by name."""
        return {name: base64.b64encode(png).decode() for name, png in self._pngs.items()}

    def text_bytes(self) -> dict[str, int]:
        """What each adds to a JSON text, by name."""
        return {name: len(name) + 4 * -(-len(png) // 3) + 8 for name, png in self._pngs.items()}


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def gallery_entry(sheet: Sheet) -> GalleryEntry:
    """The numbers of an epoch and small versions of its pictures."""
    return GalleryEntry(
        epoch=sheet.epoch,
        step=sheet.step,
        folder=sheet.folder,
        metrics=dict(sheet.metrics),
        views=tuple(map(_view, sheet.views())),
        pixel_size_m=sheet.pixel_size_m,
    )


def _view(view: ObjectView) -> GalleryView:
    pictures = {kind: thumbnail(panel) for kind, panel in view.panels()}
    return GalleryView(name=view.name, metrics=dict(view.metrics), pictures=pictures)


def thumbnail(panel: Panel) -> Thumbnail:
    """A picture averaged over the smallest squares that make it fit into 256 x 256 px."""
    block = block_to_fit(panel.values.shape, THUMBNAIL_PX)
    height, width = panel.values.shape
    return Thumbnail(png=encode_panel(shrunk(panel, block)), full_size=(height, width), block_px=block)


def entry_from_dict(entry: _Json, pictures: _Json) -> GalleryEntry:
    """What `GalleryEntry.to_dict` made, with the pictures of its store.

    Raises:
        ValueError: They are something else.
    """
    try:
        size = entry["pixel_size_m"]
        return GalleryEntry(
            epoch=int(entry["epoch"]),
            step=int(entry["step"]),
            folder=str(entry["folder"]),
            metrics=_metrics(entry["metrics"]),
            views=tuple(_read_view(view, pictures) for view in entry["views"]),
            pixel_size_m=None if size is None else float(size),
        )
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ValueError(f"an entry of the gallery is damaged: {error!r}") from error


def _read_view(view: _Json, pictures: _Json) -> GalleryView:
    kinds: tuple[Kind, ...] = get_args(Kind)
    found = {kind: view["pictures"][kind] for kind in kinds if kind in view["pictures"]}
    thumbnails = {kind: _read_thumbnail(one, pictures) for kind, one in found.items()}
    return GalleryView(name=str(view["name"]), metrics=_metrics(view["metrics"]), pictures=thumbnails)


def _read_thumbnail(one: _Json, pictures: _Json) -> Thumbnail:
    height, width = one["full_size"]
    png = base64.b64decode(pictures[one["png"]], validate=True)
    return Thumbnail(png=png, full_size=(int(height), int(width)), block_px=int(one["block_px"]))


def _metrics(record: _Json) -> dict[str, float]:
    return {str(name): math.nan if value is None else float(value) for name, value in record.items()}
