"""Looks into nested datasets: which innermost dataset holds a sample, and what that dataset knows about its scan.

`Subset`, `ConcatDataset` and wrappers with a `.dataset` of the same length nest in any order. Datasets are user code:
any access may raise any exception.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from recon_worker.system.handler_errors import raise_if_from_signal_handler

_DEEPEST = 32
"""Maximum depth of nested datasets; a deeper one is assumed to contain itself."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Samples of a dataset that lie in the same innermost dataset."""

    layers: tuple[Any, ...]
    """The innermost dataset, after the wrappers that index it in the same way, outermost first."""
    rows: NDArray[np.int64]
    """(k,) indices of the samples in the whole dataset."""
    indices: NDArray[np.int64]
    """(k,) indices of the same samples in the layers."""

    @property
    def innermost(self) -> Any:  # noqa: ANN401
        """The innermost dataset."""
        return self.layers[-1]

    @property
    def name(self) -> str:
        """Name of the outermost layer, for messages."""
        return type(self.layers[0]).__name__

    def read(self, name: str) -> Any:  # noqa: ANN401
        """Return an attribute of the first layer that has it; None if there is none."""
        return next((value for one in self.layers if (value := member(one, name)) is not None), None)

    def read_container(self, name: str) -> Any:  # noqa: ANN401
        """Return an entry of the container; None if there is none."""
        return member(self.read("container"), name)

    @property
    def scan_key(self) -> int:
        """Identifies the scan: equal for two parts of the same container or, without one, of the same dataset."""
        try:
            container, again = self.read("container"), self.read("container")
        except Exception as error:  # user code
            raise_if_from_signal_handler(error)
            return id(self.innermost)
        is_stored = container is not None and container is again  # a property may build a new one at each access
        return id(container if is_stored else self.innermost)


def flatten(dataset: object, length: int) -> tuple[Part, ...]:
    """Return the innermost datasets of a dataset of `length` samples, in order."""
    rows = np.arange(length)
    return tuple(_parts(dataset, (), rows, rows, 0))


def member(owner: Any, name: str) -> Any:  # noqa: ANN401
    """Return an entry of a mapping, or an attribute of any other object; None if it has none."""
    if hasattr(owner, "keys") and hasattr(type(owner), "__getitem__"):
        return owner[name] if name in owner.keys() else None  # noqa: SIM118 - a TensorDict has no `in`
    return getattr(owner, name, None)


def to_array(value: Any) -> NDArray[Any]:  # noqa: ANN401
    """Return a tensor, array or nested sequence as an array of numbers.

    Raises:
        TypeError: It does not hold numbers.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"numbers are expected, found a {type(value).__name__} of {array.dtype}")
    return array


def scan_numbers(parts: Sequence[Part]) -> list[int]:
    """Number the scans of the parts 0, 1, ... in order of appearance."""
    keys = list(dict.fromkeys(part.scan_key for part in parts))
    return [keys.index(part.scan_key) for part in parts]


def number_scans(parts: Sequence[Part], length: int) -> NDArray[np.int64]:
    """Return the number of each sample's scan, (length,)."""
    numbers = np.zeros(length, np.int64)
    for part, number in zip(parts, scan_numbers(parts), strict=True):
        numbers[part.rows] = number
    return numbers


def in_rows(parts: Sequence[Part], pieces: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Arrange the positions of each part's samples in the order of the whole dataset."""
    if len({piece.shape[1] for piece in pieces}) > 1:
        raise ValueError("the combined datasets have different numbers of patches per sample")
    px = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]))
    for part, piece in zip(parts, pieces, strict=True):
        px[part.rows] = piece
    return px


def _parts(
    dataset: Any,  # noqa: ANN401
    outer: tuple[Any, ...],
    rows: NDArray[np.int64],
    indices: NDArray[np.int64],
    depth: int,
) -> Iterator[Part]:
    if not len(rows):
        return
    try:
        inside = [] if depth == _DEEPEST else _look_inside(dataset, indices)
    except Exception as error:  # user code: the dataset is then taken to be the innermost one
        raise_if_from_signal_handler(error)
        inside = []
    if not inside:
        yield Part(layers=(*outer, dataset), rows=rows, indices=indices)
    for inner, chosen, inner_indices in inside:
        same = inner_indices is indices
        yield from _parts(inner, (*outer, dataset) if same else (), rows[chosen], inner_indices, depth + 1)


def _look_inside(
    dataset: Any,  # noqa: ANN401
    indices: NDArray[np.int64],
) -> Sequence[tuple[Any, NDArray[np.int64] | slice, NDArray[np.int64]]]:
    """Return (inner dataset, which samples lie in it, their indices there) for each inner dataset; empty if none."""
    if isinstance(dataset, ConcatDataset):
        ends = np.asarray(dataset.cumulative_sizes, np.int64)
        number = np.searchsorted(ends, indices, side="right")
        starts = np.concatenate([[0], ends[:-1]])
        found = []
        for i, inner in enumerate(dataset.datasets):
            chosen = np.flatnonzero(number == i)
            found.append((inner, chosen, indices[chosen] - starts[i]))
        return found
    wrapped, picked = _own(dataset, "dataset"), _own(dataset, "indices")
    if wrapped is None:
        return []
    is_subset = picked is not None and len(picked) == len(dataset) and _own(dataset, "container") is None
    if isinstance(dataset, Subset) or is_subset:
        chosen_indices = np.asarray(picked, np.int64)[indices]
        return [(wrapped, slice(None), np.where(chosen_indices < 0, chosen_indices + len(wrapped), chosen_indices))]
    return [(wrapped, slice(None), indices)] if len(wrapped) == len(dataset) else []


def _own(dataset: Any, name: str) -> Any:  # noqa: ANN401
    """Return an attribute that the dataset itself has; None if `__getattr__` would take it from an inner dataset."""
    is_own = name in getattr(dataset, "__dict__", {}) or hasattr(type(dataset), name)
    return getattr(dataset, name) if is_own else None
