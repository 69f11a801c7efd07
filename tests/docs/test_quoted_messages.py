"""Documents quote messages exactly as the program prints them."""

import ast
import re

import pytest

from tests.paths import REPOSITORY

OF_OTHERS = {"The client socket has timed out"}
"""Messages of torch."""
DOCUMENTS = [
    "docs/explanation/reliability.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs" / "how-to").glob("*.md")),
]
VALUE = "\0"


def texts(source):
    """String literals of a module, with a mark in place of each value."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[-\d.]*[sdrf]", VALUE, node.value)


@pytest.fixture(scope="module")
def printed():
    modules = [path for name in ("recon_worker", "ptycho_torch") for path in (REPOSITORY / name).rglob("*.py")]
    return [text for module in modules for text in texts(module.read_text())]


def quoted(document):
    """The quotations of a document, in parts: numbers, names and omissions stand for values."""
    prose = re.sub(r"^```.*?^```$", "", document, flags=re.MULTILINE | re.DOTALL)
    for words in re.findall(r'"([^"\n]+)"', re.sub(r"`[^`]*`", VALUE, prose)):
        for part in re.split(rf"{VALUE}|\.\.\.|…|\d+(?: x \d+ px)?|\bN\b|:|, ", words):
            if len(part.split()) > 1 and part.strip() not in OF_OTHERS:
                yield part.strip()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_message_that_a_document_quotes_is_one_of_the_program(document, printed):
    parts = quoted((REPOSITORY / document).read_text())

    assert [part for part in parts if not any(part in text for text in printed)] == []


def test_a_message_that_nobody_prints_is_found(printed):
    part = next(quoted('the user sees "a message that was never written"'))

    assert not any(part in text for text in printed)
