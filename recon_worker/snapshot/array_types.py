"""Aliases of NumPy array types, and `ObjectPatches`, complex patches computed on access."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]
Bool = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class ObjectPatches:
    """Object patches amp * exp(i phase), (n, ..., m, m) complex64, computed when rows are indexed."""

    amp: Float32
    phase: Float32

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ..., m, m)."""
        return self.amp.shape

    def __getitem__(self, rows: slice | Indices | tuple[Indices, ...]) -> Complex64:
        patches: Complex64 = self.amp[rows] * np.exp(1j * self.phase[rows])
        return patches


Patches = Complex64 | ObjectPatches
