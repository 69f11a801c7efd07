"""`Ranking`: which checkpoints to keep, by values of a metric that arrive late, in any order. No files, no Trainer."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Ranking:
    """Checkpoints of the logged epochs, and the *numbers* of their reconstructions: the values of the metric.

    The checkpoints that remain depend only on the numbers, not on when they arrived: each is kept until its number
    arrives, and one that is not among the best of some epochs cannot be among the best of all.
    """

    lower_is_better: bool
    save_top_k: int
    """Number of checkpoints to keep; -1: all."""
    paths: dict[int, str] = field(default_factory=dict)
    """Checkpoint of each logged epoch; empty: removed, or not saved."""
    numbers: dict[int, float] = field(default_factory=dict)
    """Numbers that have arrived, by epoch; NaN: undefined."""

    def _ranked(self, epochs: list[int]) -> list[int]:
        """Sort epochs that have a number: best first, earlier first if equal; then undefined ones, latest first."""

        def rank(epoch: int) -> tuple[bool, float, int]:
            number = self.numbers[epoch]
            if math.isnan(number):
                return True, 0.0, -epoch
            return False, number if self.lower_is_better else -number, epoch

        return sorted(epochs, key=rank)

    @property
    def best(self) -> int | None:
        """The best epoch, among those that have a checkpoint if there are any; None: no number is defined."""
        defined = [epoch for epoch in self.paths if not math.isnan(self.numbers.get(epoch, math.nan))]
        saved = [epoch for epoch in defined if self.paths[epoch]]
        return next(iter(self._ranked(saved or defined)), None)

    @property
    def without_number(self) -> list[int]:
        """Logged epochs whose number has not arrived."""
        return sorted(self.paths.keys() - self.numbers)

    def surplus(self, awaited: Collection[int]) -> list[int]:
        """Return the epochs whose checkpoints to remove; `awaited`: epochs whose missing number may still arrive.

        Keeps the best `save_top_k`, all that are awaited, and the last one if it has no number.
        """
        saved = [epoch for epoch, path in self.paths.items() if path]
        if self.save_top_k < 0 or not saved:
            return []
        keep = set(self._ranked([epoch for epoch in saved if epoch in self.numbers])[: self.save_top_k])
        last = max(self.paths)
        keep |= {epoch for epoch in self.without_number if epoch == last or epoch in awaited}
        return [epoch for epoch in saved if epoch not in keep]

    def stagnates(self, patience: int) -> bool:
        """Return whether the last `patience` numbers that have arrived are no better than an earlier one."""
        best = next(iter(self._ranked([*self.numbers])), None)
        if best is None or math.isnan(self.numbers[best]):
            return False
        return sum(epoch > best for epoch in self.numbers) >= patience
