"""Cuts pictures of large objects into tiles, so that a browser loads only what it shows.

    epoch_05/stitched/amp_pred.dzi                    size of the picture and of its tiles
    epoch_05/stitched/amp_pred_files/12/3_1.png       level 12, column 3, row 1
                                     10/0_0.png       the smallest level: one tile

This is the layout of Deep Zoom Images, which OpenSeadragon and other viewers read. Level ceil(log2(longer side)) is the
picture itself, pixel for pixel; each level below averages squares of 2 x 2 px as thumbnails do (`figures.levels_of`).
Tiles are palette PNGs whose pixels map back to values. Levels below a single tile are not written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from recon_worker.pictures.figures import Figure
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import Panel

TILE_PX = 1024
"""Side of a tile: 4096 x 4096 px are 21 files. Tiles of 512 px would be 85."""
OVERVIEW_PX = 512
"""Longer side of the largest overview that the viewer holds."""
SMALLEST_PX = 32
"""Longer side of the smallest level."""
_DZI = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" TileSize="{tile}">'
    '<Size Width="{width}" Height="{height}"/></Image>\n'
)


@dataclass(frozen=True, eq=False)
class TiledPicture:
    """A picture that has tiles."""

    folder: str
    """Folder of the tiles, such as "epoch_05/stitched"."""
    full_size: tuple[int, int]
    """(H, W), pixels."""
    overviews: Sequence[Panel]
    """The levels of at most `OVERVIEW_PX`, largest first."""


@dataclass(frozen=True, eq=False)
class TiledPictures:
    """The tiled pictures of the epoch rendered last. Those of the truth, which does not change, are cut only once."""

    pictures: dict[str, dict[Kind, TiledPicture]] = field(default_factory=dict)
    """Pictures by name of the figure and kind."""

    def to_cut(self, figure: Figure, from_px: int) -> list[Kind]:
        """Return the pictures to cut of an object in a new epoch; none if `from_px` is 0 or above its longer side.

        The misfit map is not included: it has one value per scan position.
        """
        if not from_px or max(figure.panels["amp_pred"].values.shape) < from_px:
            return []
        ranges = {kind: panel.value_range for kind, panel in figure.panels.items() if kind.endswith("_gt")}
        before = self.pictures.get(figure.name, {}).items()
        kept = {kind: one for kind, one in before if ranges.get(kind) == one.overviews[0].value_range}
        self.pictures[figure.name] = kept
        return [kind for kind in figure.panels if kind.startswith(("amp_", "phase_")) and kind not in kept]

    def add(self, name: str, kind: Kind, folder: str, levels: Sequence[Panel]) -> None:
        """Record that a picture has been cut."""
        small = [one for one in levels if max(one.values.shape) <= OVERVIEW_PX]
        height, width = levels[0].values.shape
        self.pictures[name][kind] = TiledPicture(folder, (height, width), small)

    def forget_truth(self) -> None:
        """Make the next epoch cut the pictures of the truth again, after some of their tiles may have been lost."""
        for name, kinds in self.pictures.items():
            self.pictures[name] = {kind: one for kind, one in kinds.items() if not kind.endswith("_gt")}

    def folders(self) -> dict[str, dict[Kind, str]]:
        """Return the folder of the tiles of each picture."""
        return {name: {kind: one.folder for kind, one in kinds.items()} for name, kinds in self.pictures.items()}


def tiles(levels: Sequence[Panel]) -> Iterator[tuple[str, Panel]]:
    """Yield the tiles of a picture as (level/column_row.png, panel), from full size to the first level of one tile."""
    number = (max(levels[0].values.shape) - 1).bit_length()
    for level in levels:
        height, width = level.values.shape
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                part = slice(top, top + TILE_PX), slice(left, left + TILE_PX)
                mask = None if level.scanned is None else level.scanned[part]
                name = f"{number}/{left // TILE_PX}_{top // TILE_PX}.png"
                yield name, replace(level, values=level.values[part], scanned=mask)
        if max(height, width) <= TILE_PX:
            return
        number -= 1


def dzi(panel: Panel) -> bytes:
    """Return the descriptor of a tiled picture."""
    height, width = panel.values.shape
    return _DZI.format(tile=TILE_PX, width=width, height=height).encode()
