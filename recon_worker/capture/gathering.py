"""Sends the rows of a snapshot from all ranks of distributed training to rank zero, in bounded chunks.

Every rank calls the same methods in the same order, even if its own part failed: it announces the failure, and all
ranks abort together. No rank ever waits in a collective that another rank skipped. The process group is a CPU (gloo)
group, separate from that of the training.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, chain, pairwise
from math import prod
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from recon_worker.capture.errors import UnusableDataError
from recon_worker.system.errors import reason

_CHUNK_BYTES = 16 << 20
"""Bytes that rank zero receives at a time, from all ranks together."""
_MAX_DESTINATIONS = 3
_NOTHING = -1


_RENDEZVOUS = timedelta(seconds=60)
"""Time within which all ranks must join."""


def ranks_of_process_group(wanted: bool | None) -> "Ranks":
    """Return the ranks of torch.distributed. All ranks must call this.

    Args:
        wanted: Whether to include all ranks, or only this process; None: all if torch.distributed is initialised.

    Raises:
        ValueError: All ranks are wanted, but torch.distributed is not initialised.
        UnusableDataError: Not all ranks called this within 60 s.
    """
    is_running = dist.is_available() and dist.is_initialized()
    if wanted and not is_running:
        raise ValueError("distributed is True, but torch.distributed is not initialised: call init_process_group.")
    if wanted is False or not is_running or dist.get_world_size() == 1:
        return Ranks()
    advice = "Create it on every rank, or pass distributed=False on the only rank that logs."
    return join("ranks created a ReconLogger within", advice)


def join(did: str, advice: str) -> "Ranks":
    """Return the ranks of torch.distributed, which is initialised. All ranks must call this.

    Args:
        did: What all should have done, for the message, such as "ranks began to log within".
        advice: How to correct it, for the message.

    Raises:
        UnusableDataError: Not all ranks called this within 60 s.
    """
    try:
        meeting = dist.new_group(backend="gloo", timeout=_RENDEZVOUS)
        dist.barrier(meeting)
    except Exception as error:
        raise UnusableDataError(
            f"not all {dist.get_world_size()} {did} {_RENDEZVOUS.seconds} s ({reason(error)}). {advice}"
        ) from error
    dist.destroy_process_group(meeting)
    return Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))


class RankFailedError(UnusableDataError):
    """Another rank failed to do its part."""


@dataclass(frozen=True)
class Rows:
    """Rows of a snapshot's arrays."""

    numbers: NDArray[np.int64]
    """(k,) Row numbers in the whole snapshot."""
    values: tuple[NDArray[np.float32], ...]
    """One (k, ...) array for each array of the destination."""


@dataclass(frozen=True)
class Destination:
    """Arrays of a snapshot that receive rows."""

    arrays: tuple[NDArray[np.float32], ...]
    """Each (n, ...)."""
    filled: NDArray[np.bool_]
    """(n,) Whether each row has arrived."""

    def chunk(self, n_ranks: int) -> tuple[int, int]:
        """Return the number of rows that each of `n_ranks` ranks sends at a time, and their number of values."""
        row_floats = sum(prod(one.shape[1:]) for one in self.arrays)
        rows = max(1, _CHUNK_BYTES // (4 * max(1, row_floats) * n_ranks))
        return rows, rows * row_floats

    def rows(self, numbers: NDArray[np.int64] | None = None) -> Rows:
        """Return the filled rows. `numbers`: (n,) numbers of all rows in the whole snapshot; None: 0 ... n - 1."""
        found = np.flatnonzero(self.filled)
        complete = len(found) == len(self.filled)
        values = self.arrays if complete else tuple(one[found] for one in self.arrays)
        return Rows(found if numbers is None else numbers[found], values)

    def no_rows(self) -> Rows:
        """Return zero rows of the right shape."""
        return Rows(np.zeros(0, np.int64), tuple(one[:0] for one in self.arrays))


class Ranks:
    """The ranks of a training run, as seen from one of them. The default is a single process.

    Args:
        rank: Number of this process.
        size: Number of processes.
        group: Their gloo process group.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._group = rank, size, group
        self._sending: list[tuple[dist.Work | None, Tensor]] = []  # work is None only outside the group
        self._received = torch.empty(0, dtype=torch.float32, device="cpu")

    def close(self) -> None:
        """Wait for the last rows to be sent, then destroy the process group."""
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            try:
                self.wait_sent()
            finally:
                dist.destroy_process_group(group)

    def wait_sent(self) -> None:
        """Wait until the rows of the last `gather` may be overwritten; training continues while rank zero receives."""
        sending, self._sending = self._sending, []
        for work, _ in sending:
            if work is not None:
                work.wait()

    def broadcast(self, make: Callable[[], Sequence[int] | NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return, on all ranks, the (n,) integers that `make` returns on rank zero.

        Raises:
            Exception: On rank zero, the error of `make`.
            RankFailedError: On the other ranks, if `make` failed.
        """
        made, count = np.zeros(0, np.int64), torch.tensor(_NOTHING, device="cpu")
        try:
            if self.rank == 0:
                made = np.array(make(), np.int64)
                count = torch.tensor(len(made), device="cpu")
        finally:
            if self.size > 1:
                dist.broadcast(count, 0, self._group)
        if count == _NOTHING:
            raise RankFailedError("rank zero failed to do its part.")
        numbers = torch.from_numpy(made) if self.rank == 0 else torch.empty(int(count), dtype=torch.int64, device="cpu")
        if self.size > 1:
            dist.broadcast(numbers, 0, self._group)
        return numbers.numpy()

    def maximum(self, value: int) -> int:
        """Return the largest of the values of all ranks."""
        largest = torch.tensor(value, device="cpu")
        if self.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX, self._group)
        return int(largest)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Synchronise with the other ranks at the end of the block, even if it raised.

        Raises:
            Exception: The error of the block.
            RankFailedError: The block failed on another rank.
        """
        try:
            yield
        except BaseException:
            self._exchange_counts(None)
            raise
        self._exchange_counts([0])

    def gather(self, make: Callable[[], Sequence[tuple[Destination, Rows]]]) -> list[int]:
        """Write the rows of all ranks to the destinations of rank zero.

        Args:
            make: Returns this rank's destinations (1 to 3, the same number on every rank) and rows. Only rank zero's
                destinations are written to; the other ranks send directly from their arrays, which must not change
                until `wait_sent` returns.

        Returns:
            On every rank, the number of rows in each of rank zero's destinations, including earlier ones.

        Raises:
            Exception: The error of `make`.
            ValueError: Rows have another shape than their destination.
            RankFailedError: Another rank failed.
        """
        try:
            parts = make()
            for to, rows in parts:
                for array, values in zip(to.arrays, rows.values, strict=True):
                    if values.shape != (len(rows.numbers), *(expected := array.shape[1:])):
                        raise ValueError(f"predictions have the shape {values.shape[1:]}; {expected} was expected.")
            if self.rank == 0 and self.size > 1:  # the receive buffer is kept: fresh memory is slow
                floats = self.size * max(to.chunk(self.size)[1] for to, _ in parts)
                if self._received.numel() < floats:
                    self._received = torch.empty(floats, dtype=torch.float32, device="cpu")
        except BaseException:
            self._exchange_counts(None)
            raise
        held = [int(to.filled.sum()) if self.rank == 0 else 0 for to, _ in parts]
        counts = self._exchange_counts(
            [before + len(rows.numbers) for before, (_, rows) in zip(held, parts, strict=True)]
        )
        columns = [*zip(*counts, strict=True)]
        if self.rank == 0:
            self._put(parts, columns)
        else:
            self._send(parts)
        return [sum(column) for column in columns]

    def _exchange_counts(self, own: Sequence[int] | None) -> list[list[int]]:
        """Return the number of rows of each rank for each destination. `own`: of this rank; None: it failed.

        Uses all-to-all: gloo's `all_gather` passes from rank to rank and waits for each to be scheduled.

        Raises:
            RankFailedError: Another rank failed, but not this one.
        """
        counts = [[*(own or [])]]
        if self.size > 1:
            padded = torch.tensor([*counts[0], *[_NOTHING] * (_MAX_DESTINATIONS - len(counts[0]))], device="cpu")
            found = torch.empty(self.size, _MAX_DESTINATIONS, dtype=torch.int64, device="cpu")
            dist.all_to_all_single(found.view(-1), padded.repeat(self.size), group=self._group)
            counts = [[count for count in one if count != _NOTHING] for one in found.tolist()]
        failed = [rank for rank, one in enumerate(counts) if not one]
        if failed and own is not None:
            raise RankFailedError(f"rank {failed[0]} failed to do its part.")
        return counts

    def _send(self, parts: Sequence[tuple[Destination, Rows]]) -> None:
        """Start sending rows to rank zero, in chunks: the row numbers, then their part of each array."""
        self.wait_sent()
        for to, rows in parts:
            step, _ = to.chunk(self.size)
            for start in range(0, len(rows.numbers), step):
                arrays: tuple[NDArray[Any], ...] = (rows.numbers, *rows.values)
                for array in arrays:
                    chunk = torch.from_numpy(np.ascontiguousarray(array[start : start + step]))
                    self._sending.append((dist.isend(chunk, 0, self._group), chunk))

    def _put(self, parts: Sequence[tuple[Destination, Rows]], counts: Sequence[Sequence[int]]) -> None:
        """Write the rows of all ranks, on rank zero. `counts`: number of rows of each rank, for each destination."""
        errors: list[Exception] = []
        for (to, own), column in zip(parts, counts, strict=True):
            for rows in chain([own], self._arriving(to, column)):
                try:
                    for array, values in zip(to.arrays, rows.values, strict=True):
                        array[rows.numbers] = values
                    to.filled[rows.numbers] = True
                except Exception as error:  # the other ranks keep sending
                    errors.append(error)
        if errors:
            raise errors[0]

    def _arriving(self, to: Destination, counts: Sequence[int]) -> Iterator[Rows]:
        """Yield the other ranks' rows, a chunk of each rank at a time; rows stay valid until the next yield."""
        step, floats = to.chunk(self.size)
        for start in range(0, max(counts[1:], default=0), step):
            arriving: list[tuple[list[dist.Work | None], Rows]] = []
            for rank in (r for r, count in enumerate(counts) if r and count > start):
                length, memory = min(step, counts[rank] - start), self._received[rank * floats :]
                shapes = [(length, *array.shape[1:]) for array in to.arrays]
                ends = [0, *accumulate(map(prod, shapes))]
                values = [memory[a:b].view(shape) for (a, b), shape in zip(pairwise(ends), shapes, strict=True)]
                numbers = torch.empty(length, dtype=torch.int64, device="cpu")
                works = [dist.irecv(one, rank, self._group) for one in (numbers, *values)]
                arriving.append((works, Rows(numbers.numpy(), tuple(one.numpy() for one in values))))
            for works, rows in arriving:
                for work in works:
                    if work is not None:
                        work.wait()
                yield rows
