"""Tests that documents name exist."""

import re

import pytest

from tests.paths import REPOSITORY

RELIABILITY = "docs/explanation/reliability.md"
TESTS = {p.relative_to(REPOSITORY): p.read_text() for p in (REPOSITORY / "tests").rglob("test_*.py")}


def named_tests(document):
    """Yield the pairs of file and function that a document names: `tests/x.py::test_y`, `…x.py::test_y`, `test_y`."""
    for words in re.findall(r"`((?:…|tests/)?[\w/]+(?:\.py)?(?:::\w+)?)`", document):
        file, _, function = words.replace("…", "tests/faults/").rpartition("::")
        if not file and function.endswith(".py"):
            file, function = function, ""
        if file.startswith("tests/") or re.fullmatch(r"test_\w+", function):
            yield file, function


def is_there(file, function):
    return any(
        (not file or str(path) == file) and (not function or f"def {function}(" in text) for path, text in TESTS.items()
    )


@pytest.mark.parametrize("document", [RELIABILITY, "docs/how-to/remote-server.md", "README.md", "CONTRIBUTING.md"])
def test_every_test_that_a_document_names_exists(document):
    named = list(named_tests((REPOSITORY / document).read_text()))

    assert [pair for pair in named if not is_there(*pair)] == []
    assert document != RELIABILITY or len(named) > 90


@pytest.mark.parametrize("words", ["`test_no_such_thing`", "`…test_soak.py::test_no_such`", "`tests/docs/test_nil.py`"])
def test_a_test_that_does_not_exist_is_found(words):
    assert not is_there(*next(named_tests(words)))
