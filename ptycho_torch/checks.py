"""Building blocks of the settings: documented dataclass fields, `ConfigError`, and shared checks."""

from dataclasses import MISSING, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin


class ConfigError(ValueError):
    """Invalid setting. The message states the value found, the values allowed and the remedy."""


def option(default: Any, help: str, *, group: str | None = None, metavar: str | None = None) -> Any:  # noqa: ANN401
    """Define a dataclass field with a help text. `group` replaces the class docstring as heading in `--help`."""
    return field(default=default, metadata={"help": help, "group": group, "metavar": metavar})


def same_option(config: type, name: str, *, required: bool = False) -> Any:  # noqa: ANN401
    """Define a field that mirrors the field `name` of `config`, with its help text and, unless required, its default.

    The metadata stores the original name as `setting`.
    """
    original = next(f for f in fields(config) if f.name == name)
    return field(default=MISSING if required else original.default, metadata={**original.metadata, "setting": name})


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_choices(config: object) -> None:
    """Check that every Literal field of a dataclass holds an allowed value."""
    hints = {f.name: f.type for f in fields(config)}  # type: ignore[arg-type]
    for name, hint in hints.items():
        allowed = next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())
        value = getattr(config, name)
        if allowed and value not in allowed and not (value is None and type(None) in get_args(hint)):
            raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}.")


def check_readable(name: str, path: Path | None) -> None:
    """Check that the file exists; accepts None, for a setting that is not given."""
    if path is not None:
        require(path.is_file(), f"{name}: there is no file {str(path)!r}. Give the path of an existing file.")


def check_directory(name: str, path: Path) -> None:
    """Check that the path is a directory or does not exist yet."""
    require(not path.exists() or path.is_dir(), f"{name} {str(path)!r} is a file; give a directory.")


def make_directory(name: str, path: Path) -> None:
    """Create a directory and its parents. Raises ConfigError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be written: {error.strerror}.") from error


def check_pixel_size(name: str, size_m: float | None) -> None:
    """Check that the side of an object pixel is plausible for a microscope."""
    require(size_m is None or 0 < size_m < 1, f"{name} is {size_m} m; it must be above 0 and below 1 metre.")


def check_arrays_format(name: str, arrays: str) -> None:
    """Check that h5py is installed if HDF5 is requested."""
    require(
        arrays != "h5" or find_spec("h5py") is not None,
        f"{name} is 'h5', which needs h5py: pip install h5py. Or use npz.",
    )


def check_indices(name: str, indices: tuple[int, ...] | None) -> None:
    """Check that dataset indices are non-negative and unique."""
    chosen = indices or ()
    require(min(chosen, default=0) >= 0, f"{name} has {min(chosen, default=0)}; count from 0.")
    repeated = sorted({i for i in chosen if chosen.count(i) > 1})
    require(not repeated, f"{name} has {repeated} more than once; name each sample once.")
