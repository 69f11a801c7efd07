"""Parses, checks and writes `_metadata`, the JSON text of a data file.

Its sections (`physics_parameters`, `training_parameters`, `additional_parameters`, ...) describe the scan. Only numbers
are used; no string is ever interpreted as a path.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.files.archive import DataError

_SECTIONS = ("additional_parameters", "physics_parameters", "training_parameters")
_SCHEMA_VERSION = "1.0"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata of a data file; missing entries are None."""

    nphotons: float | None = None
    """Mean photons per pattern."""
    gridsize: int | None = None
    """Patterns per side of a sample."""
    n_px: int | None = None
    """Side of a pattern, pixels."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole JSON object."""

    def entry(self, name: str) -> object:
        """Return the value of a name from the first section that has it, else None."""
        for section in _SECTIONS:
            values = self.raw.get(section)
            if isinstance(values, dict) and name in values:
                return values[name]
        return None

    def has(self, name: str) -> bool:
        """Return whether any section has the name."""
        return any(isinstance(s := self.raw.get(section), dict) and name in s for section in _SECTIONS)


@dataclass(frozen=True, kw_only=True)
class GridMetadata:
    """Scan grid of a grid-lines file; None for values that are not whole numbers."""

    size: int | None = 392
    """Side of an object, pixels."""
    offset: int | None = 4
    """Distance of the patches within a group, pixels."""
    outer_offset_train: int | None = 8
    """Twice the grid stride of the training scan, pixels."""
    outer_offset_test: int | None = 20
    """Twice the grid stride of the test scan, pixels."""
    nimgs_train: int | None = 2
    """Objects in the training scan."""
    nimgs_test: int | None = 2
    """Objects in the test scan."""


def parse_metadata(text: str, source: str = "_metadata") -> Metadata:
    """Read the JSON text of `_metadata`.

    Raises:
        DataError: The text is not a JSON object, or nphotons, gridsize or N is not a positive number. Names `source`.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON ({error}). Correct it, or remove the key.") from error
    if not isinstance(raw, dict):
        raise DataError(f"{source}: is a JSON {type(raw).__name__}; it must be an object. Correct it, or remove it.")
    found = Metadata(raw=raw)
    values = {name: _positive(found.entry(name), name, source) for name in ("nphotons", "gridsize", "N")}
    gridsize, n_px = (None if v is None else int(v) for v in (values["gridsize"], values["N"]))
    return Metadata(nphotons=values["nphotons"], gridsize=gridsize, n_px=n_px, raw=raw)


def dump_metadata(
    *, nphotons: float, gridsize: int, n_px: int, additional: Mapping[str, Any] | None = None
) -> NDArray[np.str_]:
    """Return the metadata of a file as a 0-d string array, which loads without pickle."""
    document = {
        "schema_version": _SCHEMA_VERSION,
        "creation_info": {"script": "scripts/simulate.py"},
        "physics_parameters": {"nphotons": nphotons, "gridsize": gridsize, "N": n_px},
        "training_parameters": {},
        "data_transformations": [],
        "additional_parameters": {"N": n_px, "gridsize": gridsize, **(additional or {})},
    }
    return np.array(json.dumps(document))


def grid_metadata(metadata: Metadata, source: str) -> GridMetadata:
    """Return the grid entries; missing entries take the format's defaults, with a UserWarning."""
    entries: dict[str, int | None] = {}
    for name, default in vars(GridMetadata()).items():
        if metadata.has(name):
            entries[name] = _whole(metadata.entry(name))
        else:
            warnings.warn(f"{source}: the metadata has no {name!r}; using {default}.", UserWarning, stacklevel=2)
    return GridMetadata(**entries)


def _positive(value: object, name: str, source: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise DataError(f"{source}: {name!r} is {value!r}; it must be a number above 0. Correct it in the metadata.")
    return float(value)


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
