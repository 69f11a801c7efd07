"""A scan given as arrays, for training loops that do not pass a dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon_worker.capture.adapters import Predictions, Sample
from recon_worker.capture.copying import as_tensor
from recon_worker.capture.errors import WrongSettingError
from recon_worker.capture.plan import as_slice
from recon_worker.system.errors import reason


class GivenScan:
    """Dataset of `Sample`s made from arrays.

    Args:
        length: Number of samples; None: that of the patterns or the positions.
        diffraction: (n, N, N) or (n, C, N, N) measured patterns, anything indexable by sample; None: unknown.
        positions: Positions of the samples, of which only the number counts here; None: unknown.
        probe: (N, N) or (P, N, N) complex probe; None: unknown.

    Raises:
        WrongSettingError: The number of samples is unknown, or the arguments disagree about it.
    """

    def __init__(self, *, length: int | None, diffraction: Any, positions: Any, probe: Any) -> None:  # noqa: ANN401
        given = {
            name: len(value)
            for name, value in (("diffraction", diffraction), ("positions", positions))
            if hasattr(value, "__len__")
        }
        lengths = {**({} if length is None else {"num_samples": length}), **given}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise WrongSettingError(
                f"the number of samples is unknown or inconsistent: {lengths or 'no argument gives it'}. Pass "
                "positions, diffraction or num_samples, each for all samples of the validation set, at least one."
            )
        self._length = next(iter(lengths.values()))
        self.diffraction = diffraction
        try:
            self._probe = None if probe is None else as_tensor(probe)
        except Exception as error:
            raise WrongSettingError(
                f"probe cannot be used ({reason(error)}); allowed: a complex array, (N, N) or (P, N, N), or None."
            ) from error

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if self.diffraction is None:
            return Sample(probe=self._probe)
        pattern = self.diffraction[index]
        array = pattern if isinstance(pattern, Tensor) else np.asarray(pattern)
        if np.iscomplexobj(array) or (isinstance(array, Tensor) and array.is_complex()):
            raise TypeError("patterns are complex; pass their amplitudes or, with intensity=True, intensities")
        pattern = array if isinstance(array, Tensor) else as_tensor(array.astype(np.float32, copy=False))
        return Sample(diffraction=pattern if pattern.ndim == 3 else pattern[None], probe=self._probe)


def patterns_of(dataset: object, numbers: NDArray[np.int64]) -> Any:  # noqa: ANN401 - (B, ...) tensor or array
    """Return the measured patterns of samples; None if they are not given as an array or tensor."""
    given = dataset.diffraction if isinstance(dataset, GivenScan) else None
    return given[as_slice(numbers)] if isinstance(given, Tensor | np.ndarray) else None


class SampleAdapter:
    """Adapter of a dataset whose items are `Sample`s. It cannot call a network."""

    def sample(self, item: Any) -> Sample:  # noqa: ANN401
        """Return the item."""
        assert isinstance(item, Sample)
        return item

    def arguments(self, items: Sequence[Any]) -> tuple[Tensor, ...]:
        """Raise NotImplementedError: a training loop calls its network itself."""
        raise NotImplementedError

    def predictions(self, outputs: Any) -> Predictions | None:  # noqa: ANN401
        """Return None: a training loop adds its predictions itself."""
        return None
