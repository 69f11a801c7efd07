"""Checks what users pass against the annotations, so that a wrong type is an error of the call, not of a later line."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from inspect import get_annotations
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    NoneType: "None",
}


def check_arguments(function: Callable[..., Any], given: Mapping[str, object]) -> None:
    """Check the annotated arguments of a call, for example `check_arguments(C.__init__, locals())` at its start.

    Raises the same errors as `check_argument`.
    """
    for name, hint in get_annotations(function).items():
        if name in given:
            check_argument(name, given[name], hint)


def check_fields(settings: Any) -> None:  # noqa: ANN401 - a dataclass
    """Check the fields of a dataclass; convert NumPy numbers to Python's, for JSON. Raises like `check_argument`."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        check_argument(field.name, value, field.type)
        if _is_numpy(value, "generic"):
            object.__setattr__(settings, field.name, value.item())  # the dataclass may be frozen


def check_argument(name: str, value: object, hint: Any) -> None:  # noqa: ANN401 - a type
    """Check that a value is of an annotated type. NumPy's numbers count as Python's, integers as floats.

    Raises:
        TypeError: It is not.
        ValueError: It is not one of the values of a `Literal`.
    """
    if _fits(value, hint):
        return
    error = ValueError if get_origin(hint) is Literal else TypeError
    raise error(f"{name} is {value!r}; allowed: {_named(name, hint)}.")


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    kind, inside = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if kind is Literal:
        return isinstance(value, str) and value in inside
    if kind is Sequence:
        if isinstance(value, str) or not (isinstance(value, Sequence) or _is_numpy(value, "ndarray")):
            return False
        return all(_fits(one, inside[0]) for one in value)  # type: ignore[attr-defined]
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    accepted = {Any: object, Path: str | PathLike}
    return isinstance(value, accepted.get(hint, hint)) or (hint is bool and _is_numpy(value, "bool_"))


def _is_numpy(value: object, kind: str) -> bool:
    """Return whether a value is of a type of NumPy, without loading it: the settings' `--help` must be fast."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, getattr(numpy, kind))


def _named(name: str, hint: Any) -> str:  # noqa: ANN401
    """Describe the type of an argument in a message."""
    kind, inside = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(_named(name, one) for one in inside)
    if kind is Literal:
        return ", ".join(inside)
    if kind is Sequence:
        return f"a sequence of {_named(name, inside[0]).removeprefix('a ')}s"
    return _NAMES.get(hint, f"{name}={hint.__name__}(...)")
