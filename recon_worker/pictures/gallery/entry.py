"""Gallery entries: metrics and thumbnails of one epoch, and their JSON form."""

import base64
import binascii
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from recon_worker.pictures.labels import Kind


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """Downsampled version of a picture."""

    png: bytes
    """PNG written by `png.encode_png`."""
    full_size: tuple[int, int]
    """(H, W) of the full-size picture, pixels."""
    block_px: int
    """Side of the square averaged into one pixel; 1: full size."""

    @functools.cached_property
    def name(self) -> str:
        """Name derived from the content, so that equal thumbnails have equal names."""
        return _name(self.png)


@dataclass(frozen=True, kw_only=True)
class GalleryFigure:
    """An object or a patch at one epoch."""

    name: str
    """Folder of the full-size pictures within the epoch's folder."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    thumbnails: Mapping[Kind, Thumbnail] = field(default_factory=dict)
    """Thumbnails by kind of panel; empty if dropped to limit the file size."""
    tiles: Mapping[Kind, str] = field(default_factory=dict)
    """Folder of the tiles of each picture, such as "epoch_05/stitched"; of the truth, often in an earlier epoch."""
    misfit: tuple[bytes, bytes] | None = None
    """Little-endian arrays of n samples: dataset indices (int32), x and y in full-size pixels (float32); and R-factors
    and deviances per photon (float32). None: unknown, or dropped."""


@dataclass(frozen=True, kw_only=True)
class GalleryEntry:
    """Metrics and thumbnails of one epoch."""

    epoch: int
    step: int
    folder: str
    """Folder of the full-size pictures, such as "epoch_05"."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: tuple[GalleryFigure, ...] = ()
    pixel_size_m: float | None = None

    def sharing(self, other: "GalleryEntry") -> "GalleryEntry":
        """Return a copy that shares equal thumbnails, such as those of the truth, with `other`, to save memory."""
        common = {one.png: one for figure in other.figures for one in figure.thumbnails.values()}
        places = {figure.misfit[0]: figure.misfit[0] for figure in other.figures if figure.misfit is not None}
        figures = []
        for figure in self.figures:
            thumbnails = {kind: common.get(one.png, one) for kind, one in figure.thumbnails.items()}
            misfit = figure.misfit and (places.get(figure.misfit[0], figure.misfit[0]), figure.misfit[1])
            figures.append(dataclasses.replace(figure, thumbnails=thumbnails, misfit=misfit))
        return dataclasses.replace(self, figures=tuple(figures))

    def with_figures(self, **fields: Any) -> "GalleryEntry":  # noqa: ANN401 - values of fields of `GalleryFigure`
        """Return a copy in which these fields of every figure are replaced, such as `misfit=None`."""
        return dataclasses.replace(self, figures=tuple(dataclasses.replace(one, **fields) for one in self.figures))

    def to_dict(self, pngs: dict[str, bytes]) -> dict[str, Any]:
        """Return the entry as JSON values that refer to thumbnails by name.

        Args:
            pngs: Receives PNGs and misfits by name: equal ones, such as the truth of all epochs, are stored once.
        """
        views = []
        for figure in self.figures:
            pictures = {}
            for kind, one in figure.thumbnails.items():
                pngs.setdefault(one.name, one.png)
                pictures[kind] = {"png": one.name, "full_size": list(one.full_size), "block_px": one.block_px}
            view: dict[str, Any] = {"name": figure.name, "metrics": _finite(figure.metrics), "pictures": pictures}
            if figure.misfit is not None:
                view["misfit"] = [_name(one) for one in figure.misfit]
                pngs |= dict(zip(view["misfit"], figure.misfit, strict=True))
            if figure.tiles:
                view["tiles"] = dict(figure.tiles)
            views.append(view)
        facts = {"epoch": self.epoch, "step": self.step, "folder": self.folder, "pixel_size_m": self.pixel_size_m}
        return facts | {"metrics": _finite(self.metrics), "views": views}

    @functools.cached_property
    def sizes(self) -> tuple[int, dict[str, int]]:
        """Size of the metrics in the gallery, and of each thumbnail and misfit by name, bytes."""
        pngs: dict[str, bytes] = {}
        metrics = len(json.dumps(self.to_dict(pngs)))
        return metrics, {name: len(name) + 4 * -(-len(png) // 3) + 8 for name, png in pngs.items()}

    @functools.cached_property
    def misfit_names(self) -> frozenset[str]:
        """Names of the misfits among those of `sizes`."""
        return frozenset(_name(array) for figure in self.figures for array in figure.misfit or ())

    @classmethod
    def from_dict(cls, entry: Any, pictures: Any) -> "GalleryEntry":  # noqa: ANN401 - JSON values, checked by use
        """Restore an entry from the output of `to_dict` and the PNGs as base64 text by name.

        Raises:
            ValueError: The structure is unknown.
        """
        try:
            figures = []
            for view in entry["views"]:
                thumbnails: dict[Kind, Thumbnail] = {}
                for kind in (kind for kind in get_args(Kind) if kind in view["pictures"]):
                    one = view["pictures"][kind]
                    height, width = map(int, one["full_size"])
                    png = base64.b64decode(pictures[one["png"]], validate=True)
                    thumbnails[kind] = Thumbnail(png=png, full_size=(height, width), block_px=int(one["block_px"]))
                folders = view.get("tiles", {})
                figures.append(
                    GalleryFigure(
                        name=str(view["name"]),
                        metrics=_metrics(view["metrics"]),
                        thumbnails=thumbnails,
                        tiles={kind: str(folders[kind]) for kind in get_args(Kind) if kind in folders},
                        misfit=_misfit(view.get("misfit"), pictures),
                    )
                )
            size = entry["pixel_size_m"]
            return cls(
                epoch=int(entry["epoch"]),
                step=int(entry["step"]),
                folder=str(entry["folder"]),
                metrics=_metrics(entry["metrics"]),
                figures=tuple(figures),
                pixel_size_m=None if size is None else float(size),
            )
        except (KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ValueError(f"an entry of the gallery is damaged: {error!r}") from error


def _name(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=9).hexdigest()


def _misfit(names: Any, pictures: Any) -> tuple[bytes, bytes] | None:  # noqa: ANN401 - JSON values
    if names is None:
        return None
    places, values = (base64.b64decode(pictures[name], validate=True) for name in names)
    return places, values


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Replace non-finite values, which JSON does not support, by None."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _metrics(record: Mapping[str, float | None]) -> dict[str, float]:
    return {str(name): math.nan if value is None else float(value) for name, value in record.items()}
