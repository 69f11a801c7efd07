"""Slices of large images, for block-wise computation that bounds the memory of double-precision intermediates."""

from collections.abc import Iterator

_BLOCK_PX = 1 << 20


def row_blocks(shape: tuple[int, ...], multiple: int = 1) -> Iterator[slice]:
    """Return an iterator over row slices of about a million pixels each; one slice for a smaller image.

    Args:
        shape: (H, W).
        multiple: Blocks start at multiples of this number of rows.
    """
    rows = max(1, _BLOCK_PX // max(1, shape[1]) // multiple) * multiple
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def central(size: int, at_most: int) -> slice:
    """Return the central `at_most` pixels of an axis of `size` pixels; the whole axis if it is shorter."""
    side = min(size, at_most)
    first = (size - side) // 2
    return slice(first, first + side)
