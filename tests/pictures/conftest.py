"""Fixtures shared by the tests of summary and layout."""

import pytest

from recon_worker.pictures.layout import Page


@pytest.fixture
def written(monkeypatch):
    """The texts of a sheet, in drawing order."""
    texts = []
    write = Page.write

    def spy(page, x, y, text, **style):
        texts.append(text)
        write(page, x, y, text, **style)

    monkeypatch.setattr(Page, "write", spy)
    return texts
