"""The gallery: one HTML file that shows how the reconstruction formed, epoch by epoch. Needs nothing but itself.

It holds small versions of the pictures as data URIs. Their number is bounded: when the file would be larger than its
limit, epochs lose their pictures, evenly over the run; the first, the last and the most recent ones keep theirs.
The numbers of all epochs stay. The page itself is `gallery.html` beside this file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from recon_worker.views import Kind, Sheet

MAX_BYTES = 4 << 20
"""Size of the file at most, as long as four epochs fit."""


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
    metrics: Mapping[str, float]
    pictures: Mapping[Kind, Thumbnail]
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

    def to_json(self) -> str:
        """For `from_json`; one line of ASCII."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, text: str) -> "GalleryEntry":
        """What `to_json` wrote.

        Raises:
            ValueError: The text is something else.
        """
        raise NotImplementedError


def gallery_entry(sheet: Sheet) -> GalleryEntry:
    """Shrink the pictures of an epoch; about 10 ms for an object of 330 x 330 px."""
    raise NotImplementedError


def thinned(entries: Iterable[GalleryEntry], max_bytes: int = MAX_BYTES) -> list[GalleryEntry]:
    """The entries, of which as few as needed have lost their pictures, in the order of epochs.

    Stable: thinning what is thinned changes nothing, and entries that were added one by one, thinning each time,
    stay evenly spread. Of two entries of the same epoch, the later one counts.
    """
    raise NotImplementedError


def gallery_html(entries: Iterable[GalleryEntry], *, title: str = "", max_bytes: int = MAX_BYTES) -> bytes:
    """The page, UTF-8. The same entries give the same bytes.

    Args:
        entries: Epochs in any order; thinned to max_bytes.
        title: Such as the name of the run.
        max_bytes: Size of the page at most; exceeded where four epochs alone are larger.
    """
    raise NotImplementedError


def entries_of(html: bytes) -> Sequence[GalleryEntry]:
    """The entries of a page of `gallery_html`, to go on with them.

    Raises:
        ValueError: The page was not made by `gallery_html`, or is damaged.
    """
    raise NotImplementedError
