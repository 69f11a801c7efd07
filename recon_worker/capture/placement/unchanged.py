"""Leaves datasets and random generators as they were while the logging reads samples or calls the network.

Datasets are user code: any access may raise any exception.
"""

import random
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import is_
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

_SAMPLED = 4096
"""Approximate number of elements of a large array that are compared."""
_SMALL_BYTES = 1 << 26
"""Maximum size of mapped files that are compared: reading from larger ones takes long."""
_DEPTH = 4
"""Levels of nesting that are searched for random generators, such as those of transforms in a list."""
_LONGEST = 256
"""Maximum length of the containers that are searched."""
_PLAIN = {bool, bytes, complex, float, int, str, NoneType}
"""Types whose values contain no random generator."""


@contextmanager
def left_unchanged(dataset: object) -> Iterator[None]:
    """Restore, on exit, all random states and the attributes of a dataset and of those nested in it.

    Datasets draw random numbers, also from generators of their own, and open files at the first access: DataLoader
    workers forked later would share a file that this process has opened, and its position. If a dataset has closed a
    file to open another, or overwritten an array or a list with other samples, its attributes are not restored, because
    they belong together.
    """
    owners = list(_groups(dataset))
    groups, flat = [*map(_Attributes, owners)], [one for group in owners for one in group]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    restores = list(own_generators(map(vars, flat), in_modules_of(flat)))
    try:
        uses_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(range(torch.cuda.device_count()) if uses_gpu else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for restore in (*restores, *(group.restore for group in groups)):
            restore()


class _Attributes:
    """Attributes of objects that belong together, as they are now."""

    def __init__(self, owners: Iterable[object]) -> None:
        self._before = [(vars(one), dict(vars(one))) for one in owners]
        values = [value for _, attributes in self._before for value in attributes.values()]
        self._opened = list(filter(_is_open, values))
        inner = [one for value in values if issubclass(type(value), list | tuple | dict) for one in _inside(value)]
        self._is_same = list(filter(None, map(_same, (*values, *inner))))

    def restore(self) -> None:
        """Restore the attributes, unless they describe what a file or memory holds now."""
        was_fresh = any(
            attributes.get(name) is None
            for state, attributes in self._before
            for name, value in state.items()
            if value is not None
        )
        if not all(map(_is_open, self._opened)) or not (was_fresh or all(map(_holds, self._is_same))):
            return
        for state, attributes in self._before:
            for name in [name for name in state if name not in attributes]:
                del state[name]
            state.update(attributes)


def _groups(dataset: object) -> Iterator[list[object]]:
    """Yield each dataset, from the outermost on, with the objects of its own package that it holds.

    Attributes within such a group may belong together: a dataset's chunk number and the memory of its reader.
    """
    seen, datasets = set[int](), [dataset]
    while datasets:
        group, left = list[object](), [datasets.pop()]
        while left:
            one = left.pop()
            state = getattr(one, "__dict__", None)
            if type(state) is not dict or id(state) in seen:
                continue
            seen.add(id(state))
            group.append(one)
            several = state.get("datasets", ())
            datasets += [state.get("dataset"), *(several if issubclass(type(several), list | tuple) else ())]
            datasets += [value for value in state.values() if _is_dataset(value)]
            package = _package(one)
            left += [v for v in state.values() if not _is_dataset(v) and _package(v) == package]
        yield group


def _is_dataset(value: object) -> bool:
    return issubclass(type(value), Dataset)  # `isinstance` may run user code: a proxy has a `__class__` of its own


def _package(value: object) -> str:
    """Return the name of the package of an object's class; unique for classes of torch, such as `Subset` and Tensor."""
    name = str(type(value).__module__).partition(".")[0]
    return name if name != "torch" else str(id(value))


def in_modules_of(owners: Iterable[object]) -> list[object]:
    """Return the global variables of the Python modules that define the classes of objects."""
    names = {cls.__module__ for one in owners for cls in type(one).__mro__} & sys.modules.keys()
    return [value for name in names for value in list(vars(sys.modules[name]).values())]


def _is_open(value: Any) -> bool:  # noqa: ANN401
    """Return whether a value is an open file, also of h5py or `np.load`; False if that cannot be determined."""
    try:
        if _package(value) == "h5py":
            return bool(value)
        return value.zip is not None if isinstance(value, np.lib.npyio.NpzFile) else value.closed is False
    except Exception:  # user code
        return False


def _same(value: Any) -> Callable[[], bool] | None:  # noqa: ANN401
    """Return a function that tells whether a value still holds what it holds now.

    Large arrays are sampled. None for values that cannot be overwritten, and for mapped files above `_SMALL_BYTES`.
    """
    with suppress(Exception):  # of a subclass of Tensor, or without a version, as in `torch.inference_mode`
        if isinstance(value, Tensor):
            return partial(lambda version: value._version == version, value._version)
        if isinstance(value, np.ndarray) and value.flags.writeable:
            is_small = not isinstance(value, np.memmap) or value.nbytes <= _SMALL_BYTES
            return partial(lambda sample: _sample(value.flat) == sample, _sample(value.flat)) if is_small else None
        if isinstance(value, bytearray | array):
            return partial(lambda sample: _sample(value) == sample, _sample(value))
        if isinstance(value, list | deque):  # growing does not overwrite
            return partial(lambda items: len(value) >= len(items) and all(map(is_, value, items)), list(value))
        if isinstance(value, dict):
            return partial(lambda items: all(value.get(key) is one for key, one in items), list(value.items()))
    return None


def _holds(is_same: Callable[[], bool]) -> bool:
    with suppress(Exception):  # user code
        return is_same()
    return False


def _sample(values: Any) -> bytes:  # noqa: ANN401 - a sequence of numbers
    return bytes(values[:: len(values) // _SAMPLED | 1])  # odd: not always the same columns


def own_generators(owners: Iterable[dict[str, Any]], others: Iterable[object] = ()) -> Iterator[Callable[[], object]]:
    """Yield a function that restores the state of each random generator found.

    Args:
        owners: Attributes of objects, searched with the objects, containers and closures in them.
        others: Objects that are not searched further.
    """
    found = {id(one): one for attributes in owners for one in attributes.values()}
    level = list(found.values())
    for _ in range(_DEPTH):
        inner = {id(value): value for one in level for value in _inside(one) if type(value) not in _PLAIN}
        level = [value for number, value in inner.items() if number not in found]
        found |= inner
    for one in (*found.values(), *others):
        with suppress(Exception):  # user code
            source = one.bit_generator if isinstance(one, np.random.Generator) else one
            if isinstance(source, np.random.BitGenerator):
                yield partial(setattr, source, "state", source.state)
            elif isinstance(source, np.random.RandomState):
                yield partial(source.set_state, source.get_state())
            elif isinstance(source, random.Random):
                yield partial(source.setstate, source.getstate())
            elif isinstance(source, torch.Generator):
                yield partial(source.set_state, source.get_state())


def _inside(one: Any) -> list[Any]:  # noqa: ANN401
    """Return the attributes of an object, the elements of a short container, or what a function refers to."""
    with suppress(Exception):  # user code
        if isinstance(one, list | tuple | dict | set | deque):
            return [] if len(one) > _LONGEST else [*(one.values() if isinstance(one, dict) else one)]
        if isinstance(one, CellType):
            return [one.cell_contents]
        if isinstance(one, partial):
            return [one.func, one.args, one.keywords]
        if isinstance(one, MethodType | BuiltinMethodType):
            return [one.__self__]
        if isinstance(one, FunctionType):
            return [*(one.__closure__ or ()), *(one.__defaults__ or ())]
        if not isinstance(one, type | ModuleType):
            return [*one.__dict__.values()]
    return []
