"""What pictures of later epochs need from earlier ones: the colour ranges, and the gallery's entry of each epoch.

The history is kept in the run's spool, so that a restarted worker and `recon-worker sync` continue with it. Its files
are also the artifacts `recon_log/scales.json` and `recon_log/gallery.html`, from which a resumed training continues.
"""

import math
from collections.abc import Mapping, Sequence

from recon_worker.pictures.colour_ranges import ColourRanges
from recon_worker.pictures.figures import EpochFigures
from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryFigure, Thumbnail
from recon_worker.pictures.gallery.page import entries_of, gallery_html, thinned
from recon_worker.pictures.layout import block_to_fit, downsampled
from recon_worker.pictures.png import Panel, encode_png
from recon_worker.snapshot.artifact import GALLERY, SCALES

THUMBNAIL_PX = 256
"""Longest side of a thumbnail."""


class History:
    """The history of one run's pictures.

    Args:
        colour_ranges: Ranges that are fixed already.
        entries: Entries of the gallery so far.
    """

    def __init__(self, colour_ranges: ColourRanges | None = None, entries: Sequence[GalleryEntry] = ()) -> None:
        self.colour_ranges = colour_ranges or ColourRanges()
        self.entries = list(entries)
        self._gallery: bytes | None = None
        self._published = b""

    def unpublished_scales(self) -> bytes | None:
        """Return the content of scales.json if it has changed since the last call, else None."""
        content = self.colour_ranges.to_json().encode()
        if content == self._published:
            return None
        self._published = content
        return content

    def publish_again(self) -> None:
        """Make `unpublished_scales` return the content once more, because the last one was lost."""
        self._published = b""

    def add(self, figures: EpochFigures) -> None:
        """Add an epoch; one that is logged again replaces its earlier entry."""
        self._gallery = None
        entry = gallery_entry(figures)
        if self.entries:
            entry = entry.sharing(self.entries[-1])
        self.entries = thinned([*self.entries, entry])

    def gallery(self) -> bytes:
        """Return the gallery of all epochs so far."""
        if self._gallery is None:
            self._gallery = gallery_html(self.entries)
        return self._gallery

    def files(self) -> dict[str, bytes]:
        """Return the files to restore the history from, by name; without the gallery while it is empty."""
        files = {SCALES: self.colour_ranges.to_json().encode()}
        return files | ({GALLERY: self.gallery()} if self.entries else {})

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], last_epoch: float = math.inf) -> "History":
        """Restore a history from its files, any of which may be missing.

        Args:
            files: Content by name, see `files`.
            last_epoch: Later epochs are dropped.

        Raises:
            ValueError: A file is damaged.
        """
        entries = entries_of(files[GALLERY]) if GALLERY in files else ()
        colour_ranges = ColourRanges.from_json(files[SCALES]) if SCALES in files else None
        return cls(colour_ranges, [entry for entry in entries if entry.epoch <= last_epoch])


def gallery_entry(figures: EpochFigures) -> GalleryEntry:
    """Make the gallery's entry of an epoch: its metrics, and thumbnails of its panels."""
    return GalleryEntry(
        epoch=figures.epoch,
        step=figures.step,
        folder=figures.folder,
        metrics=dict(figures.metrics),
        figures=tuple(
            GalleryFigure(
                name=figure.name,
                metrics=dict(figure.metrics),
                thumbnails={kind: thumbnail(panel) for kind, panel in figure.panels.items()},
            )
            for figure in figures.figures()
        ),
        pixel_size_m=figures.pixel_size_m,
    )


def thumbnail(panel: Panel) -> Thumbnail:
    """Downsample a panel by the smallest whole factor that fits it into 256 x 256 px."""
    block = block_to_fit(panel.values.shape, THUMBNAIL_PX)
    height, width = panel.values.shape
    return Thumbnail(png=encode_png(downsampled(panel, block)), full_size=(height, width), block_px=block)
