"""Hooks of the documentation site, see `mkdocs.yml`: Mermaid drawings become their SVG files, which need no network."""

import os
from pathlib import PurePosixPath

from drawings import FENCE, Drawing
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace each drawing by its pictures, one for light and one for dark colours."""
    folder = PurePosixPath(page.file.src_uri).parent
    return FENCE.sub(lambda found: _pictures(Drawing(found[1]), folder), markdown)


def _pictures(drawing: Drawing, folder: PurePosixPath) -> str:
    if not all(drawing.is_current(theme) for theme in ("light", "dark")):
        raise PluginError(f"The drawing {drawing.title!r} has changed; scripts/docs/drawings.py renders it.")
    links = (os.path.relpath(drawing.file(theme), folder) + f"#only-{theme}" for theme in ("light", "dark"))
    return "".join(f"![{drawing.title}]({link}){{ .drawing }}" for link in links) + "\n"
