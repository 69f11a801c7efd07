"""What later pictures need of earlier epochs: the fixed colour ranges, and what the gallery keeps of each epoch.

Its files are kept in the run's spool, so that a worker that is started again, and `recon-worker sync`, go on with
it. They are the artifacts `recon_log/scales.json` and `gallery.html` too, so that a resumed training goes on with what
an earlier one logged.
"""

import math
from collections.abc import Mapping, Sequence

from recon_worker.pictures.colour_ranges import Scales
from recon_worker.pictures.gallery.entry import GalleryEntry, gallery_entry
from recon_worker.pictures.gallery.evolution import evolution_gif
from recon_worker.pictures.gallery.page import entries_of, gallery_html, thinned
from recon_worker.pictures.views import Sheet
from recon_worker.snapshot.artifact import GALLERY, SCALES


class History:
    """The memory of one run's pictures.

    Args:
        scales: Ranges that are fixed already.
        entries: What the gallery shows already.
    """

    def __init__(self, scales: Scales | None = None, entries: Sequence[GalleryEntry] = ()) -> None:
        self.scales = scales or Scales()
        self.entries = list(entries)
        self._gallery: bytes | None = None
        self._published = b""

    def unpublished_scales(self) -> bytes | None:
        """The content of scales.json if it has changed since the last call; else None."""
        content = self.scales.to_json().encode()
        if content == self._published:
            return None
        self._published = content
        return content

    def publish_again(self) -> None:
        """Have `unpublished_scales` give what it gave last: that got lost."""
        self._published = b""

    def add(self, sheet: Sheet) -> None:
        """Remember an epoch; one that is logged again replaces the earlier one."""
        self._gallery = None
        entry = gallery_entry(sheet)
        if self.entries:
            entry = entry.sharing(self.entries[-1])
        self.entries = thinned([*self.entries, entry])

    def gallery(self) -> bytes:
        """The gallery of all epochs so far."""
        if self._gallery is None:
            self._gallery = gallery_html(self.entries)
        return self._gallery

    def evolution(self) -> bytes | None:
        """The animation of the first object; None while it was stitched in fewer than two epochs."""
        return evolution_gif(self.entries)

    def files(self) -> dict[str, bytes]:
        """For `of_files`; the gallery is absent while it is empty."""
        files = {SCALES: self.scales.to_json().encode()}
        return files | ({GALLERY: self.gallery()} if self.entries else {})

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], last_epoch: float = math.inf) -> "History":
        """From the files of `files`, of which any may be missing.

        Args:
            files: Their content by name.
            last_epoch: What comes later is forgotten.

        Raises:
            ValueError: One of them is damaged.
        """
        entries = entries_of(files[GALLERY]) if GALLERY in files else ()
        scales = Scales.from_json(files[SCALES]) if SCALES in files else None
        return cls(scales, [entry for entry in entries if entry.epoch <= last_epoch])
