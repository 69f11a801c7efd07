"""Run history: the colour ranges and gallery entries that later epochs reuse.

The history is stored in the run's spool, where a restarted worker and `recon-worker sync` find it. Its files are also
the artifacts `recon_log/scales.json` and `recon_log/gallery.html`, from which a resumed training run restores it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recon_worker.pictures.colour_ranges import ColourRanges
from recon_worker.pictures.figures import EpochFigures, Figure, downsampled
from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryFigure, Thumbnail
from recon_worker.pictures.gallery.page import entries_of, gallery_html, thinned
from recon_worker.pictures.labels import METRICS, Kind
from recon_worker.pictures.png import ConstantPanels, encode_png
from recon_worker.pictures.tiles.pyramid import TiledPictures
from recon_worker.snapshot.artifact import GALLERY, SCALES
from recon_worker.snapshot.records import Scan

THUMBNAIL_PX = 256
"""Longest side of a thumbnail."""


@dataclass(eq=False)
class History:
    """Picture history of one run."""

    colour_ranges: ColourRanges = field(default_factory=ColourRanges)
    """Ranges fixed so far."""
    entries: list[GalleryEntry] = field(default_factory=list)
    """Gallery entries so far, in order of epochs."""
    tiled: TiledPictures = field(default_factory=TiledPictures, init=False)
    """Tiles that this process has cut."""
    _constant: tuple[Scan, ConstantPanels] | None = field(default=None, init=False)
    _gallery: bytes | None = field(default=None, init=False)
    _published: bytes = field(default=b"", init=False)

    def constant_panels(self, scan: Scan) -> ConstantPanels:
        """Return the cache of the panels that are the same in every epoch; empty at first, and for another scan."""
        if self._constant is None or self._constant[0] is not scan:
            self._constant = scan, ConstantPanels()
        return self._constant[1]

    def unpublished_scales(self) -> bytes | None:
        """Return the content of scales.json if it has changed since the last call, else None."""
        content = self.colour_ranges.to_json().encode()
        if content == self._published:
            return None
        self._published = content
        return content

    def publish_again(self) -> None:
        """Make the next epoch publish scales and tiles of the truth again, after artifacts of this one were lost."""
        self._published = b""
        self.tiled.forget_truth()

    def metrics(self) -> dict[int, dict[str, float]]:
        """Return the metrics of each epoch, by their names in MLflow."""
        return {entry.epoch: logged_metrics(entry.figures) for entry in self.entries}

    def add(self, figures: EpochFigures) -> None:
        """Add an epoch, replacing an earlier entry of the same epoch."""
        self._gallery = None
        entry = gallery_entry(figures, self.tiled.folders())
        if self.entries:
            entry = entry.sharing(self.entries[-1])
        self.entries = thinned([*self.entries, entry])

    def gallery(self) -> bytes:
        """Return the gallery of all epochs so far."""
        if self._gallery is None:
            self._gallery = gallery_html(self.entries)
        return self._gallery

    def without_tiles(self) -> "History":
        """Forget where tiles are, because they belong to another run. Returns this history."""
        self._gallery = None
        self.entries = [entry.with_figures(tiles={}) for entry in self.entries]
        return self

    def files(self) -> dict[str, bytes]:
        """Return the files that `of_files` reads, by name; omits an empty gallery."""
        files = {SCALES: self.colour_ranges.to_json().encode()}
        return files | ({GALLERY: self.gallery()} if self.entries else {})

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], last_epoch: float = math.inf) -> "History":
        """Restore a history from its files; missing files are treated as empty.

        Args:
            files: Content by name, as returned by `files`.
            last_epoch: Last epoch to keep.

        Raises:
            ValueError: A file is damaged.
        """
        entries = entries_of(files[GALLERY]) if GALLERY in files else ()
        colour_ranges = ColourRanges.from_json(files[SCALES]) if SCALES in files else ColourRanges()
        return cls(colour_ranges, [entry for entry in entries if entry.epoch <= last_epoch])


def logged_metrics(figures: Iterable[Figure | GalleryFigure]) -> dict[str, float]:
    """Return the finite metrics of an epoch's figures, by their names in MLflow; those of patches as their mean."""
    found = {figure.name: figure.metrics for figure in figures}
    groups = {name: metrics for name, metrics in found.items() if not name.startswith("patch_")}
    groups["patches"] = mean_metrics([metrics for name, metrics in found.items() if name.startswith("patch_")])
    return {
        f"recon/{group}/{name}": value
        for group, metrics in groups.items()
        for name, value in metrics.items()
        if math.isfinite(value)
    }


def mean_metrics(patches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the patches that have it, except fitted alignments, whose mean is meaningless."""
    values = {name: [one[name] for one in patches if name in one and math.isfinite(one[name])] for name in METRICS}
    return {name: float(np.mean(found)) for name, found in values.items() if found and not name.startswith("fit_")}


def gallery_entry(figures: EpochFigures, tiles: Mapping[str, Mapping[Kind, str]] | None = None) -> GalleryEntry:
    """Make the gallery entry of an epoch: its metrics, its panels downsampled to at most 256 x 256 px, and its tiles.

    Args:
        figures: The epoch.
        tiles: Folder of the tiles of each picture, by figure and kind.
    """
    kept = []
    for figure in figures.figures():
        thumbnails = {}
        for kind, panel in figure.panels.items():
            block = math.ceil(max(panel.values.shape) / THUMBNAIL_PX)
            height, width = panel.values.shape
            png = encode_png(downsampled(panel, block))
            thumbnails[kind] = Thumbnail(png=png, full_size=(height, width), block_px=block)
        kept.append(
            GalleryFigure(
                name=figure.name,
                metrics=dict(figure.metrics),
                thumbnails=thumbnails,
                tiles=dict((tiles or {}).get(figure.name, {})),
                misfit=None if figure.misfit is None else figure.misfit.to_bytes(),
            )
        )
    return GalleryEntry(
        epoch=figures.epoch,
        step=figures.step,
        folder=figures.folder,
        metrics=dict(figures.metrics),
        figures=tuple(kept),
        pixel_size_m=figures.pixel_size_m,
    )
