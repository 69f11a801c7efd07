"""FROM all ranks of a distributed training: rows of a snapshot go to rank zero, in bounded chunks.

Every rank calls the same methods in the same order, whether its own part went well or not: a rank whose part failed
says so, and all leave the event together. No rank ever waits in a collective that another one has left out. The
collectives run on a CPU (gloo) group of their own, beside those of the training. Imports only torch, Lightning, numpy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")

_CHUNK_BYTES = 16 << 20
"""What rank zero receives at a time, from all ranks together."""
_MAX_PLACES = 3
_NOTHING = -1


class RankFailedError(RuntimeError):
    """Another rank could not do its part."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a snapshot's arrays."""

    numbers: NDArray[np.int64]
    """(k,) which rows of the whole snapshot they are."""
    values: tuple[NDArray[np.float32], ...]
    """Each (k, ...): one array per array of the place that they go to."""


@dataclass(frozen=True)
class Place:
    """Where rows go."""

    arrays: tuple[NDArray[np.float32], ...]
    """Each (n, ...)."""
    filled: NDArray[np.bool_]
    """(n,) which rows have arrived."""

    @property
    def row_floats(self) -> int:
        """Numbers in a row of all arrays."""
        return sum(prod(one.shape[1:]) for one in self.arrays)

    def rows(self, numbers: NDArray[np.int64] | None = None) -> Rows:
        """What has arrived; `numbers`: of the place's rows in the whole snapshot, if they are others."""
        found = np.flatnonzero(self.filled)
        complete = len(found) == len(self.filled)
        values = self.arrays if complete else tuple(one[found] for one in self.arrays)
        return Rows(found if numbers is None else numbers[found], values)

    def no_rows(self) -> Rows:
        """Nothing, in the shapes of this place."""
        return Rows(np.zeros(0, np.int64), tuple(one[:0] for one in self.arrays))

    def put(self, rows: Rows) -> None:
        """Write rows where they belong."""
        for array, values in zip(self.arrays, rows.values, strict=True):
            array[rows.numbers] = values
        self.filled[rows.numbers] = True


class Ranks:
    """The processes of a training, as one of them sees them; by default there is only this one.

    Args:
        rank: Number of this process.
        size: Number of processes.
        group: Their CPU group.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._group = rank, size, group
        self._buffer = torch.zeros(0)
        self._sending: dist.Work | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> "Ranks":
        """All processes of a Trainer; every one of them must call this.

        Raises:
            RuntimeError: They do not communicate through torch.distributed.
        """
        if trainer.world_size == 1:
            return cls()
        if not (dist.is_available() and dist.is_initialized()):
            name = type(trainer.strategy).__name__
            raise RuntimeError(
                f"the {trainer.world_size} processes of {name} do not communicate through torch.distributed, which "
                "brings their predictions together. Use strategy='ddp'."
            )
        return cls(trainer.global_rank, trainer.world_size, dist.new_group(backend="gloo"))

    def close(self) -> None:
        """Leave the group."""
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            try:
                self._wait_sent()
            finally:
                dist.destroy_process_group(group)

    def _wait_sent(self) -> None:
        """Until what is sent may be overwritten: the other ranks train on while rank zero receives."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.wait()

    def from_zero(self, make: Callable[[], T]) -> T:
        """What rank zero makes, on all ranks.

        Raises:
            Exception: On rank zero, what `make` raises.
            RankFailedError: On the others, if it has raised.
        """
        if self.size == 1:
            return make()
        made: list[T | None] = [None]
        try:
            if self.rank == 0:
                made = [make()]
        finally:
            dist.broadcast_object_list(made, 0, self._group)
        if made[0] is None:
            raise RankFailedError("rank zero could not do its part.")
        return made[0]

    def gather(self, make: Callable[[], Sequence[tuple[Place, Rows]]]) -> list[int]:
        """Every rank makes some rows for each of some places; on rank zero they are put there.

        The other ranks go on while theirs are being sent.

        Args:
            make: This rank's places (1 to 3, as many on every rank) and rows; only rank zero's places are written to.

        Returns:
            On every rank, how many rows have arrived at each of rank zero's places, now or before.

        Raises:
            Exception: What `make` raises.
            RankFailedError: It has raised on another rank.
        """
        if self.size == 1:
            parts = make()
            for place, rows in parts:
                place.put(rows)
            return [int(place.filled.sum()) for place, _ in parts]
        try:
            parts = make()
            buffers = [self._reserve(1 + place.row_floats) for place, _ in parts]
        except BaseException:
            self._exchange_counts([])
            raise
        held = [int(place.filled.sum()) if self.rank == 0 else 0 for place, _ in parts]
        counts = self._exchange_counts(
            [before + len(rows.numbers) for before, (_, rows) in zip(held, parts, strict=True)]
        )
        failed = [rank for rank, found in enumerate(counts) if not found]
        if failed:
            raise RankFailedError(f"rank {failed[0]} could not do its part.")
        errors: list[Exception] = []
        for (place, rows), buffer, column in zip(parts, buffers, zip(*counts, strict=True), strict=True):
            for arrived in self._chunks(rows, place, buffer, max(column[1:])):
                try:
                    place.put(arrived)
                except Exception as error:  # the other ranks send on
                    errors.append(error)
        if errors:
            raise errors[0]
        return [sum(column) for column in zip(*counts, strict=True)]

    def _exchange_counts(self, own: Sequence[int]) -> list[list[int]]:
        """How many rows each rank has for each place; none for a rank that has failed."""
        padded = [*own, *[_NOTHING] * (_MAX_PLACES - len(own))]
        found = [torch.zeros(_MAX_PLACES, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(found, torch.tensor(padded), self._group)
        return [[int(count) for count in one if count != _NOTHING] for one in found]

    def _reserve(self, row_floats: int) -> Tensor:
        """Memory to send from and, on rank zero, to receive into: (1 or size, rows, row_floats).

        In its first column are the bits of the rows' numbers: one collective less.
        """
        rows = max(1, _CHUNK_BYTES // (4 * max(1, row_floats) * self.size))
        shares = self.size if self.rank == 0 else 1
        needed = shares * rows * row_floats
        if self._buffer.numel() < needed:
            self._buffer = torch.zeros(needed)
        return self._buffer[:needed].view(shares, rows, row_floats)

    def _chunks(self, own: Rows, place: Place, buffer: Tensor, longest: int) -> Iterator[Rows]:
        """Send this rank's rows; on rank zero yield all ranks'. `longest`: most rows that one of the others has."""
        if self.rank == 0:
            yield own
        for start in range(0, longest, buffer.shape[1]):
            chunk = buffer[:, : min(buffer.shape[1], longest - start)]
            if self.rank > 0:
                self._wait_sent()
                _pack(own, start, chunk[0])
                self._sending = dist.gather(chunk[0], None, 0, self._group, async_op=True)
                continue
            dist.gather(chunk[0], [*chunk], 0, self._group)
            for received in chunk[1:]:
                yield _unpack(received, place)


def _pack(rows: Rows, start: int, chunk: Tensor) -> None:
    """Write rows from `start` on into what is sent: a row's number, then its part of each array."""
    chosen = slice(start, start + len(chunk))
    found = rows.numbers[chosen]
    numbers = chunk[:, 0].view(torch.int32)
    numbers[: len(found)] = torch.from_numpy(found)
    numbers[len(found) :] = _NOTHING
    first = 1
    for values in rows.values:
        flat = torch.from_numpy(values[chosen]).flatten(1)
        chunk[: len(found), first : first + flat.shape[1]] = flat
        first += flat.shape[1]


def _unpack(chunk: Tensor, place: Place) -> Rows:
    numbers = chunk[:, 0].view(torch.int32).numpy()
    count = int((numbers != _NOTHING).sum())
    ends = np.cumsum([1, *(prod(one.shape[1:]) for one in place.arrays)])
    values = tuple(
        chunk[:count, first:end].numpy().reshape(count, *array.shape[1:])
        for (first, end), array in zip(pairwise(ends), place.arrays, strict=True)
    )
    return Rows(numbers[:count].astype(np.int64), values)
