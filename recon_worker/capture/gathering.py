"""FROM all ranks of a distributed training: rows of a snapshot go to rank zero, in bounded chunks.

Every rank calls the same methods in the same order, whether its own part went well or not: a rank whose part failed
says so, and all leave the event together. No rank ever waits in a collective that another one has left out. The
group is a CPU (gloo) one of its own, beside that of the training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

_CHUNK_BYTES = 16 << 20
"""What rank zero receives at a time, from all ranks together."""
_MAX_PLACES = 3
_NOTHING = -1

T = TypeVar("T")


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

    def check(self, rows: Rows) -> None:
        """Refuse rows of another shape than the place has. Raises ValueError."""
        for array, values in zip(self.arrays, rows.values, strict=True):
            if values.shape != (len(rows.numbers), *array.shape[1:]):
                raise ValueError(f"predictions have the shape {values.shape[1:]}; {array.shape[1:]} was expected.")

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
        self._sending: list[tuple[dist.Work, Tensor]] = []
        self._received = torch.empty(0)

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
                self.wait_sent()
            finally:
                dist.destroy_process_group(group)

    def wait_sent(self) -> None:
        """Until the rows of the last `gather` may be overwritten: the other ranks train on while rank zero receives."""
        sending, self._sending = self._sending, []
        for work, _ in sending:
            work.wait()

    def from_zero(self, make: Callable[[], Sequence[int] | NDArray[np.int64]]) -> NDArray[np.int64]:
        """Whole numbers that rank zero makes, on all ranks; (n,).

        Raises:
            Exception: On rank zero, what `make` raises.
            RankFailedError: On the others, if it has raised.
        """
        made, count = np.zeros(0, np.int64), torch.tensor(_NOTHING)
        try:
            if self.rank == 0:
                made = np.array(make(), np.int64)
                count = torch.tensor(len(made))
        finally:
            self._broadcast(count)
        if count == _NOTHING:
            raise RankFailedError("rank zero could not do its part.")
        numbers = torch.from_numpy(made) if self.rank == 0 else torch.empty(int(count), dtype=torch.int64)
        self._broadcast(numbers)
        return numbers.numpy()

    def together(self, make: Callable[[], T]) -> T:
        """What every rank makes for itself; none goes on with it if one could not make it.

        Raises:
            Exception: What `make` raises.
            RankFailedError: It has raised on another rank.
        """
        try:
            made = make()
        except BaseException:
            self._exchange_counts([])
            raise
        _check_all(self._exchange_counts([0]))
        return made

    def _broadcast(self, numbers: Tensor) -> None:
        if self.size > 1:
            dist.broadcast(numbers, 0, self._group)

    def gather(self, make: Callable[[], Sequence[tuple[Place, Rows]]]) -> list[int]:
        """Every rank makes some rows for each of some places; on rank zero they are put there.

        Args:
            make: This rank's places (1 to 3, as many on every rank) and rows. Only rank zero's places are written to;
                the other ranks' rows are sent straight from their arrays, which must stay as they are until `wait_sent`
                returns.

        Returns:
            On every rank, how many rows have arrived at each of rank zero's places, now or before.

        Raises:
            Exception: What `make` raises.
            RankFailedError: It has raised on another rank.
        """
        try:
            parts = make()
            for place, rows in parts:
                place.check(rows)
            if self.rank == 0:
                self._reserve(parts)
        except BaseException:
            self._exchange_counts([])
            raise
        held = [int(place.filled.sum()) if self.rank == 0 else 0 for place, _ in parts]
        counts = self._exchange_counts(
            [before + len(rows.numbers) for before, (_, rows) in zip(held, parts, strict=True)]
        )
        _check_all(counts)
        columns = [*zip(*counts, strict=True)]
        if self.rank == 0:
            self._put(parts, columns)
        else:
            self._send(parts)
        return [sum(column) for column in columns]

    def _exchange_counts(self, own: Sequence[int]) -> list[list[int]]:
        """How many rows each rank has for each place; none for a rank that has failed.

        Each tells each: gloo's `all_gather` goes round from rank to rank, and waits for each to get a processor.
        """
        if self.size == 1:
            return [[*own]]
        padded = torch.tensor([*own, *[_NOTHING] * (_MAX_PLACES - len(own))])
        found = torch.empty(self.size, _MAX_PLACES, dtype=torch.int64)
        dist.all_to_all_single(found.view(-1), padded.repeat(self.size), group=self._group)
        return [[count for count in one if count != _NOTHING] for one in found.tolist()]

    def _chunk_rows(self, place: Place) -> int:
        """How many rows a rank sends at a time."""
        return max(1, _CHUNK_BYTES // (4 * max(1, place.row_floats) * self.size))

    def _send(self, parts: Sequence[tuple[Place, Rows]]) -> None:
        """To rank zero, in chunks: numbers of rows, then their part of each array."""
        self.wait_sent()
        for place, rows in parts:
            step = self._chunk_rows(place)
            for start in range(0, len(rows.numbers), step):
                arrays: tuple[NDArray[Any], ...] = (rows.numbers, *rows.values)
                for array in arrays:
                    chunk = torch.from_numpy(np.ascontiguousarray(array[start : start + step]))
                    self._sending.append((_started(dist.isend(chunk, 0, self._group)), chunk))

    def _put(self, parts: Sequence[tuple[Place, Rows]], counts: Sequence[Sequence[int]]) -> None:
        """On rank zero: put all ranks' rows. `counts`: how many each rank has, for each place."""
        errors: list[Exception] = []
        for (place, own), column in zip(parts, counts, strict=True):
            for rows in chain([own], self._arriving(place, column)):
                try:
                    place.put(rows)
                except Exception as error:  # the other ranks send on
                    errors.append(error)
        if errors:
            raise errors[0]

    def _reserve(self, parts: Sequence[tuple[Place, Rows]]) -> None:
        """Have memory to receive a chunk into; it is kept, as fresh memory is slow."""
        floats = max(self.size * self._chunk_rows(place) * place.row_floats for place, _ in parts)
        if self.size > 1 and self._received.numel() < floats:
            self._received = torch.empty(floats)

    def _arriving(self, place: Place, counts: Sequence[int]) -> Iterator[Rows]:
        """The other ranks' rows, a chunk of each rank at a time; one is valid until the next."""
        step = self._chunk_rows(place)
        for start in range(0, max(counts[1:], default=0), step):
            shares = {rank: min(step, count - start) for rank, count in enumerate(counts) if rank and count > start}
            arriving = [self._receive(rank, count, place) for rank, count in shares.items()]
            for works, rows in arriving:
                for work in works:
                    work.wait()
                yield rows

    def _receive(self, rank: int, count: int, place: Place) -> tuple[list[dist.Work], Rows]:
        """Start to receive a chunk of a rank, into that rank's part of the memory."""
        memory = self._received[rank * self._chunk_rows(place) * place.row_floats :]
        numbers, values = torch.empty(count, dtype=torch.int64), _as_arrays(memory, count, place)
        works = [_started(dist.irecv(one, rank, self._group)) for one in (numbers, *values)]
        return works, Rows(numbers.numpy(), tuple(one.numpy() for one in values))


def _check_all(counts: Sequence[Sequence[int]]) -> None:
    """Raise if a rank has told that it failed: it has counted nothing."""
    failed = [rank for rank, found in enumerate(counts) if not found]
    if failed:
        raise RankFailedError(f"rank {failed[0]} could not do its part.")


def _as_arrays(memory: Tensor, rows: int, place: Place) -> list[Tensor]:
    """Use memory as some rows of each of a place's arrays."""
    shapes = [(rows, *array.shape[1:]) for array in place.arrays]
    ends = [0, *accumulate(map(prod, shapes))]
    return [memory[first:end].view(shape) for (first, end), shape in zip(pairwise(ends), shapes, strict=True)]


def _started(work: dist.Work | None) -> dist.Work:
    assert work is not None  # only for a process outside the group
    return work
