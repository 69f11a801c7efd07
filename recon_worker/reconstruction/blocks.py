"""Parts of large images: what is computed from them in double precision need not exist as a whole."""

from collections.abc import Iterator

_BLOCK_PX = 1 << 20


def row_blocks(shape: tuple[int, ...], multiple: int = 1) -> Iterator[slice]:
    """Consecutive rows of an image, about a million pixels at a time; one block for what is smaller.

    Args:
        shape: (H, W).
        multiple: Blocks begin at multiples of so many rows.
    """
    rows = max(1, _BLOCK_PX // max(1, shape[1]) // multiple) * multiple
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def central(size: int, at_most: int) -> slice:
    """The middle of an axis of `size` pixels, `at_most` so many of them."""
    side = min(size, at_most)
    first = (size - side) // 2
    return slice(first, first + side)
