"""Write the page of flags from the settings: docs/reference/flags.md.

python scripts/docs/flags.py
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ptycho_torch.cli import SECTIONS, flag_of
from ptycho_torch.inference_config import InferenceConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "flags.md"
_HEAD = """# Flags

<!-- Written by scripts/docs/flags.py from the settings classes of ptycho_torch. -->

The flags of `scripts/training/train.py` and `scripts/studies/grid_lines_torch_runner.py`, then those of
`scripts/inference.py`. Each is a field of a dataclass, and its name without dashes is its key in a settings file
(`--config run.yaml`). Dashes and underscores are interchangeable; abbreviations are refused. A flag without a value has
a negation: `--no-probe_big`. `--help` prints the same texts.

`grid_lines_torch_runner.py` has other spellings for some: `--train-npz`, `--test-npz`, `--output-dir`, `--epochs` and
`--torch-logger`.
"""
_TITLES = {
    "Lightning Trainer and metrics logger.": "Devices",
    "Execution": "Devices",
    "Reconstruction logging (MLflow; each flag also with the prefix --torch-)": "Reconstruction logging",
}
_INTRODUCTIONS = {
    "Reconstruction logging": "Any of these flags switches reconstruction logging on. Each also exists with the prefix "
    "`--torch-` (`--torch-recon-log-stitch`).\nFlags marked *async* have no effect without `--recon-log-async`.",
}
_GENERAL = """
## Settings file and checks

| flag | value | default | meaning |
|---|---|---|---|
| `--config` | file | | read settings from this YAML file; flags override it |
| `--print-config` | | | print all settings and stop |
| `--dry-run` | | | check settings and data, then stop |
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; exit code 0."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False).parse_args(argv)
    PAGE.write_text(page())
    print(PAGE)
    return 0


def page() -> str:
    """Markdown of the page."""
    training, inference = _groups(SECTIONS.values()), _groups([InferenceConfig])
    tables = "".join(f"\n## {title}\n{_table(title, rows)}" for title, rows in training.items())
    more = "".join(f"\n### {title}\n{_table(title, rows)}" for title, rows in list(inference.items())[1:])
    first = _table("", next(iter(inference.values())))
    return f"{_HEAD}{tables}{_GENERAL}\n## Reconstruct from a checkpoint\n\n`scripts/inference.py`\n{first}{more}"


def _groups(sections: Iterable[type]) -> Mapping[str, list[str]]:
    """Rows of the tables, by title."""
    groups: dict[str, list[str]] = {}
    for section in sections:
        for option in fields(section):
            if "help" in option.metadata:
                title = option.metadata["group"] or str(section.__doc__)
                groups.setdefault(_TITLES.get(title, title), []).append(_row(section, option))
    return groups


def _table(title: str, rows: Sequence[str]) -> str:
    introduction = f"\n{_INTRODUCTIONS[title]}\n" if title in _INTRODUCTIONS else ""
    return f"{introduction}\n| flag | value | default | meaning |\n|---|---|---|---|\n" + "".join(
        f"{row}\n" for row in rows
    )


def _row(section: type, option: Field[Any]) -> str:
    text = re.sub(r"(?<![\w`])(--[\w-]+)", r"`\1`", option.metadata["help"].replace("|", r"\|"))
    text = re.sub(r"\(docs/([\w-]+)/([\w-]+)\.md\)", r"([\2](../\1/\2.md))", text)
    meaning, _, default = re.sub(r"^async\b", "*async*", text).replace(" (required)", "").partition("; default: ")
    value = " or ".join(_values(get_type_hints(section)[option.name], option.metadata["metavar"]))
    return f"| `{flag_of(option.name)}` | {value} | {default or _default(option)} | {meaning} |"


def _default(option: Field[Any]) -> str:
    if "(required)" in option.metadata["help"]:
        return "required"
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return "" if option.default in (None, MISSING, ()) else f"`{option.default}`"


def _values(hint: Any, metavar: str | None) -> Iterator[str]:  # noqa: ANN401 - a type hint
    """Yield what a flag takes, in words; nothing for a flag without a value."""
    if get_origin(hint) is Literal:
        yield ", ".join(f"`{choice}`" for choice in get_args(hint))
    elif get_origin(hint) is tuple:
        yield "integers"
    elif get_args(hint):
        for part in get_args(hint):
            yield from _values(part, metavar)
    elif hint not in (bool, type(None)):
        names = {int: "integer", float: "number", str: "text", Path: "path"}
        yield f"`{metavar}`".replace("|", "`, `") if metavar else names[hint]


if __name__ == "__main__":
    raise SystemExit(main())
