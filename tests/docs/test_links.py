"""Targets of links, anchors, pictures and paths in documents exist."""

import re

import pytest

from tests.paths import REPOSITORY

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", ".github/*.md", "recon_worker/*.md")
    for path in REPOSITORY.glob(pattern)
)
README_LINES = 150


def prose(document):
    """The text without fenced code, where brackets are no links."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(document):
    """Targets within the repository, as a document writes them."""
    text = prose(document)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(document):
    """GitHub's anchors of the headings; a repeated one gets a number."""
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(document), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeats = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{repeats}" if repeats else slug)
    return found


def is_there(document, target):
    path, _, anchor = target.partition("#")
    file = (document.parent / path).resolve() if path else document
    return file.exists() and (not anchor or anchor in anchors(file))


def named_paths(document):
    """Files and folders of the repository that a document names in backticks."""
    pattern = r"`((?:recon_worker|ptycho_torch|scripts|docs|tests|\.ci|\.github)/[\w./-]*)(?:::?[^`]*)?`"
    return re.findall(pattern, prose(document))


def by_name(document):
    return str(document.relative_to(REPOSITORY))


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_link_and_anchor_within_the_repository_leads_somewhere(document):
    assert [target for target in links(document) if not is_there(document, target)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_file_that_a_document_names_exists(document):
    assert [path for path in named_paths(document) if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("target", ["nowhere.md", "README.md#no-such-heading", "#no-such-heading"])
def test_a_link_that_leads_nowhere_is_found(target):
    assert not is_there(REPOSITORY / "CONTRIBUTING.md", target)


def test_every_picture_under_docs_is_in_a_document():
    shown = {(document.parent / target).resolve() for document in DOCUMENTS for target in links(document)}

    assert set((REPOSITORY / "docs/pictures").glob("*.*")) <= shown


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= README_LINES
