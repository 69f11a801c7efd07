"""Command line of the training scripts: one flag per field of `ptycho_torch.config`.

Flags are generated from the dataclasses, so each setting is defined once. The command line overrides
`--config file.yaml`, which overrides the defaults. Free of heavy imports, for a fast `--help`.
"""

import argparse
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from ptycho_torch.checks import ConfigError
from ptycho_torch.config import DataConfig, ModelConfig, PyTorchExecutionConfig, RunConfig, ScanKind, TrainingConfig
from ptycho_torch.quiet import quiet_libraries
from ptycho_torch.recon_log_config import DEFAULT_EVERY_N_EPOCHS

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "execution": PyTorchExecutionConfig,
}
_DASHED_PREFIXES = ("recon_log_", "mlflow_", "print_config", "dry_run")
_INTERVAL = "recon_log_every_n_epochs"


def main(
    kind: ScanKind, description: str, argv: Sequence[str] | None = None, *, aliases: Mapping[str, str] | None = None
) -> int:
    """Parse, check and train; returns the exit code. Invalid settings or data exit with 2 before training.

    Args:
        kind: Format of the data files.
        description: First line of `--help`.
        argv: Arguments after the script's name; None: those of this process.
        aliases: Alternative flag names: alias -> setting.
    """
    arguments = Arguments(description, SECTIONS.values(), aliases)
    arguments.add_general()
    settings = arguments.parse(argv)
    config_file, print_config, dry_run = (settings.pop(name) for name in ("config", "print_config", "dry_run"))
    try:
        config = resolve(kind, settings, config_file)
    except ConfigError as error:
        arguments.fail(str(error))
    if print_config:
        print(config.as_yaml(), end="")
        return 0
    from ptycho_torch.files.npz import DataError

    try:
        with quiet_libraries():
            from ptycho_torch.workflows.components import describe, run_training

            if dry_run:
                print(describe(config))
            else:
                run_training(config)
    except (ConfigError, DataError) as error:
        arguments.fail(str(error))
    return 0


def resolve(kind: ScanKind, given: Mapping[str, Any], config_file: Path | None = None) -> RunConfig:
    """Build checked settings: `given` (field name -> value) overrides the file, which overrides the defaults.

    Raises:
        ConfigError: A setting is missing, unknown or invalid.
    """
    from_file = read_yaml(config_file) if config_file else {}
    if from_file.get("scan_kind", kind) != kind:
        raise ConfigError(f"{config_file} is for {from_file['scan_kind']} data; this script trains on {kind} data.")
    values = {**from_file, **given, "scan_kind": kind}
    # --print-config writes null for "off"; a recon-log flag given with such a file still enables logging.
    asked = given if _INTERVAL in from_file else values
    if values.get(_INTERVAL) is None and any(name.startswith("recon_log_") for name in asked):
        values[_INTERVAL] = DEFAULT_EVERY_N_EPOCHS
    built = {
        section: cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        for section, cls in SECTIONS.items()
        if section != "data"
    }
    if "train_data_file" not in values:
        raise ConfigError("--train_data_file is missing. Name the NPZ file to train on.")
    data = DataConfig(**{f.name: values[f.name] for f in fields(DataConfig) if f.name in values})
    return RunConfig(data=data, **built)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file in the format of `--print-config`; returns field name -> value.

    Raises:
        ConfigError: The file cannot be read, or has an unknown setting or a value of the wrong type.
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"--config: there is no file {str(path)!r}.")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"--config: {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"--config: {path} must hold sections ({', '.join(SECTIONS)}), not {type(document).__name__}."
        )
    flat: dict[str, Any] = {}
    for section, values in document.items():
        if section not in SECTIONS:
            raise ConfigError(f"--config: {path} has an unknown section {section!r}; {_hint(section, SECTIONS)}")
        if not isinstance(values, dict | None):
            raise ConfigError(f"--config: {path}: {section} is {values!r}; it must hold settings, one per line.")
        flat.update(_typed_section(path, section, values or {}))
    return flat


def _typed_section(path: Path, section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    known = {f.name: f for f in fields(SECTIONS[section])}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"--config: {path} has an unknown setting {section}.{name}; {_hint(name, known)}")
        kind, many, optional = _value_type(SECTIONS[section], known[name])
        if value is None and not optional:
            raise ConfigError(f"--config: {section}.{name} is empty; give a value of type {kind.__name__}.")
        try:
            yield name, _coerced(value, kind, many)
        except (TypeError, ValueError) as error:
            wanted = f"{'a list of' if many else 'of type'} {kind.__name__}"
            raise ConfigError(f"--config: {section}.{name} is {value!r}; it must be {wanted}.") from error


def _coerced(value: Any, kind: type, many: bool) -> Any:  # noqa: ANN401
    if value is None:
        return None
    if many:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_coerced(item, kind, False) for item in value)
    if (kind is bool) != isinstance(value, bool) or (kind is int and not float(value).is_integer()):
        raise ValueError
    return kind(value)


def _hint(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}."


def _value_type(cls: type, option: Field[Any]) -> tuple[type, bool, bool]:
    """Return (type of a value, whether the field holds several values, whether it accepts None)."""
    hint, optional = _hint_of(cls, option)
    if get_origin(hint) is Literal:
        return str, False, optional
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, optional
    return hint, False, optional


def _hint_of(cls: type, option: Field[Any]) -> tuple[Any, bool]:
    """Return (type of a field without None, whether it accepts None)."""
    hint = get_type_hints(cls)[option.name]
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    return next(part for part in get_args(hint) if part is not NoneType), NoneType in get_args(hint)


def flag_of(name: str) -> str:
    """Return the flag as `--help` shows it. On input, underscores and dashes are interchangeable."""
    return "--" + (name.replace("_", "-") if name.startswith(_DASHED_PREFIXES) else name)


class Arguments:
    """An argparse parser generated from config classes.

    Args:
        description: First line of `--help`.
        sections: Dataclasses; each field with a help text becomes a flag.
        aliases: Alternative flag names: alias -> field name.
    """

    def __init__(self, description: str, sections: Iterable[type], aliases: Mapping[str, str] | None = None) -> None:
        self._parser = argparse.ArgumentParser(
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        self._aliases = dict(aliases or {})
        self._names: set[str] = set()
        self._groups: dict[str, argparse._ArgumentGroup] = {}
        for cls in sections:
            for option in fields(cls):
                if "help" in option.metadata:
                    self._add(cls, option)

    def add_general(self) -> None:
        """Add the flags common to all training scripts: settings file and checks."""
        self._names |= {"config", "print_config", "dry_run"}
        general = self._parser.add_argument_group("Settings file and checks")
        general.add_argument("--config", type=Path, default=None, metavar="YAML", help="read settings from this file")
        general.add_argument("--print-config", action="store_true", default=False, help="print all settings and stop")
        general.add_argument("--dry-run", action="store_true", default=False, help="check settings and data, then stop")

    def _add(self, cls: type, option: Field[Any]) -> None:
        title = option.metadata["group"] or cls.__doc__ or cls.__name__
        if title not in self._groups:
            self._groups[title] = self._parser.add_argument_group(title)
        kind, many, _ = _value_type(cls, option)
        hint, _ = _hint_of(cls, option)
        text = option.metadata["help"].replace("%", "%%")
        default = option.default
        if default not in (None, MISSING, ()):
            shown = {True: "on", False: "off"}.get(default, default) if isinstance(default, bool) else default
            text += f" (default: {shown})"
        extra: dict[str, Any] = {"metavar": option.metadata["metavar"] or kind.__name__.upper()}
        if kind is bool:
            extra = {"action": argparse.BooleanOptionalAction}
        elif get_origin(hint) is Literal:
            extra = {"choices": get_args(hint)}
        else:
            extra |= {"type": kind, **({"nargs": "+"} if many else {})}
        self._names.add(option.name)
        aliases = ["--" + alias.replace("_", "-") for alias, name in self._aliases.items() if name == option.name]
        self._groups[title].add_argument(flag_of(option.name), *aliases, dest=option.name, help=text, **extra)

    def parse(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the values of the given flags by field name. Unknown or malformed flags exit with 2 and a message.

        Args:
            argv: Arguments after the script's name; None: those of this process.
        """
        tokens = sys.argv[1:] if argv is None else argv
        given = vars(self._parser.parse_args([self._normalised(token) for token in tokens]))
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}

    def _normalised(self, token: str) -> str:
        if not token.startswith("--"):
            return token
        flag, equals, value = token.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        torch_name = name.removeprefix("torch_")
        if torch_name != name and torch_name.startswith(("recon_log_", "no_recon_log_", "logger")):
            name = torch_name
        name = self._aliases.get(name, name)
        if name in self._names:
            return flag_of(name) + equals + value
        if name.removeprefix("no_") in self._names:
            return "--no-" + flag_of(name.removeprefix("no_")).removeprefix("--")
        return token

    def fail(self, message: str) -> NoReturn:
        """Print an error message and exit with 2."""
        self._parser.exit(2, f"{self._parser.prog}: error: {message}\n")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)
