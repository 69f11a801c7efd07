"""Commands and code of the documents exist: scripts and their flags, make targets, names of Python blocks."""

import ast
import functools
import importlib
import re
import runpy
import sys
import textwrap

import pytest

from recon_worker.cli.main import main as recon_worker_main
from tests.docs.test_links import DOCUMENTS, by_name
from tests.paths import REPOSITORY
from tests.scripts import call

COMMAND = re.compile(
    r"python (scripts/\S+\.py)(?: (raw|grid-lines)\b)?|(?:^|\$ )recon-worker (sync|status|render|compare)\b"
)
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


def blocks(document, language):
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r" *\\\n\s*", " ", block) for block in found]


def commands(document):
    """Yield (script, subcommand, flags) of every command line in blocks without a language."""
    for line in "\n".join(blocks(document, "")).splitlines():
        if found := COMMAND.search(line):
            script, kind, subcommand = found.groups()
            yield (
                script or "recon-worker",
                kind or subcommand,
                re.findall(r" (--[\w-]+)", line[found.end() :].partition(" #")[0]),
            )


@functools.cache
def flags_of(script, subcommand):
    """Flags of a program, as in its `--help`, with dashes."""
    if script == "recon-worker":
        return dashed(call(recon_worker_main, subcommand, "--help").stdout)
    path = REPOSITORY / script
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *[subcommand] * bool(subcommand), "--help"])
        patch.syspath_prepend(path.parent)
        return dashed(call(lambda _: runpy.run_path(str(path), run_name="__main__")).stdout)


def dashed(text):
    return {flag.replace("_", "-") for flag in re.findall(r"--[\w-]+", text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_flag_of_a_command_exists(document):
    unknown = [
        (script, flag)
        for script, subcommand, flags in commands(document)
        for flag in flags
        if flag.replace("_", "-") not in flags_of(script, subcommand)
    ]

    assert unknown == []


def test_a_flag_that_does_not_exist_is_found():
    assert "--no-such-flag" not in flags_of("scripts/training/train.py", None)
    assert "--train-data-file" in flags_of("scripts/training/train.py", None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_make_target_exists(document):
    named = re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), flags=re.MULTILINE)

    assert set(named) <= TARGETS


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_python_blocks_parse_and_their_names_of_this_project_exist(document):
    for block in blocks(document, "python"):
        tree = ast.parse(textwrap.dedent(block))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("recon_worker", "ptycho_torch"):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
