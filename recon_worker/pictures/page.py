"""A page of pictures and text, put together pixel by pixel: nothing is interpolated, and drawing it is quick.

matplotlib (Agg, without pyplot) sets the text. Font and sizes do not depend on the user's matplotlib settings.
"""

import io
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recon_worker.pictures.matplotlib_module import load_matplotlib

Align: TypeAlias = Literal["left", "center", "right"]
INK, GREY, WHITE = "#202020", "#5f5f5f", "#ffffff"
_DPI = 100
_PAPER = 255
_SHIFT = {"left": 0.0, "center": 0.5, "right": 1.0}
"""How far a text begins before its place, in widths."""


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    points: float
    colour: str
    align: Align
    bold: bool


@dataclass
class Page:
    """A white page that grows with what is put on it. Positions are pixels from the top left, (x, y)."""

    _pictures: list[tuple[int, int, NDArray[np.uint8]]] = field(default_factory=list)
    _texts: list[_Text] = field(default_factory=list)

    def paste(self, x: int, y: int, picture: NDArray[np.uint8]) -> None:
        """Put a picture, (H, W, 3) uint8 RGB, with its top left corner at (x, y)."""
        self._pictures.append((x, y, picture))

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        points: float = 9,
        colour: str = INK,
        align: Align = "left",
        bold: bool = False,
    ) -> None:
        """Put one line of text; y is its baseline, 1 point is 1/72 of 100 px."""
        self._texts.append(_Text(x, y, text, points, colour, align, bold))

    @property
    def width(self) -> int:
        """Right end of the pictures."""
        return max((x + picture.shape[1] for x, _, picture in self._pictures), default=0)

    def png(self, width: int, height: int) -> bytes:
        """The page as an RGB PNG. What lies beyond its edges is cut off."""
        canvas = np.full((height, width, 3), _PAPER, np.uint8)
        for x, y, picture in self._pictures:
            part = picture[: max(0, height - y), : max(0, width - x)]
            canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        stream = io.BytesIO()
        Image.fromarray(_with_text(canvas, self._texts)).save(stream, "PNG", compress_level=1)
        return stream.getvalue()


def _with_text(canvas: NDArray[np.uint8], texts: list[_Text]) -> NDArray[np.uint8]:
    """Draws with the renderer alone: a Figure and its texts refer to each other, and so would keep the memory of each
    page, 10 MB, until the garbage collector comes."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    height, width = canvas.shape[:2]
    renderer = RendererAgg(width, height, _DPI)  # type: ignore[no-untyped-call]
    opaque = np.full((height, width, 4), 255, np.uint8)
    opaque[..., :3] = canvas[::-1]
    renderer.draw_image(renderer.new_gc(), 0, 0, opaque)
    for one in texts:
        font = FontProperties(family="DejaVu Sans", size=one.points, weight="bold" if one.bold else "normal")
        text_width = renderer.get_text_width_height_descent(one.text, font, False)[0]  # type: ignore[no-untyped-call]
        style = renderer.new_gc()
        style.set_foreground(one.colour)
        x = one.x - _SHIFT[one.align] * text_width
        renderer.draw_text(style, x, one.y, one.text, font, 0)  # type: ignore[no-untyped-call]
    return np.asarray(renderer.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
