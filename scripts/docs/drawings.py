"""Render the Mermaid drawings of the documents to SVG, light and dark, in headless Chromium.

npm install --prefix build/mermaid --ignore-scripts mermaid@12
python scripts/docs/drawings.py build/mermaid/node_modules/mermaid/dist/mermaid.min.js
"""

import argparse
import hashlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path("pictures/drawings")
"""Folder of the SVG files, relative to `docs`."""
FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_POINTS = re.compile(r' data-points="[^"]*"')
"""An attribute that only editors read."""
_FONT = "Helvetica, Arial, sans-serif"
_THEMES = {
    "light": {"primaryColor": "#eef3f8", "primaryTextColor": "#1c2733", "primaryBorderColor": "#5b7a99"}
    | {"lineColor": "#5b7a99", "clusterBkg": "#f8fafc", "clusterBorder": "#c3d0dc", "titleColor": "#1c2733"}
    | {"edgeLabelBackground": "#ffffff"},
    "dark": {"primaryColor": "#2b3947", "primaryTextColor": "#e6edf3", "primaryBorderColor": "#8fb0d0"}
    | {"lineColor": "#8fb0d0", "clusterBkg": "#202a35", "clusterBorder": "#45586b", "titleColor": "#e6edf3"}
    | {"edgeLabelBackground": "#1e2129"},
}
_RENDER = """
const done = arguments[arguments.length - 1];
mermaid.initialize({
  startOnLoad: false, theme: "base", fontFamily: arguments[1], htmlLabels: false, deterministicIds: true,
  themeVariables: {...arguments[2], fontFamily: arguments[1], fontSize: "15px"},
  themeCSS: `.edgeLabel rect.background {fill: ${arguments[2].edgeLabelBackground}; opacity: 1}`,
  flowchart: {
    htmlLabels: false, useMaxWidth: false, nodeSpacing: 30, rankSpacing: 40, wrappingWidth: 300,
    subGraphTitleMargin: {top: 5, bottom: 12},
  },
});
mermaid.render("drawing", arguments[0]).then(result => done(result.svg), error => done("error: " + error));
"""


@dataclass(frozen=True)
class Drawing:
    """A Mermaid drawing of a document."""

    text: str

    @property
    def title(self) -> str:
        """What the drawing shows, from its line `accTitle`."""
        found = re.search(r"^ *accTitle: *(.+)$", self.text, re.MULTILINE)
        return found[1] if found else "Drawing"

    def file(self, theme: str) -> Path:
        """SVG file, relative to `docs`."""
        return FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')}-{theme}.svg"

    def is_current(self, theme: str) -> bool:
        """Whether the SVG file was made from this text."""
        file = REPOSITORY / "docs" / self.file(theme)
        return file.is_file() and self.mark in file.read_text()

    @property
    def mark(self) -> str:
        """Comment in the SVG file that names its source."""
        return f"<!-- sha256 of the Mermaid text: {hashlib.sha256(self.text.encode()).hexdigest()} -->"


def drawings_of(document: str) -> Iterator[Drawing]:
    """Yield the drawings of a Markdown document."""
    return (Drawing(text) for text in FENCE.findall(document))


def main(argv: Sequence[str] | None = None) -> int:
    """Write an SVG file per drawing and theme; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("mermaid", type=Path, help="mermaid.min.js")
    library: Path = parser.parse_args(argv).mermaid
    documents = [path.read_text() for path in sorted((REPOSITORY / "docs").rglob("*.md"))]
    drawings = [drawing for document in documents for drawing in drawings_of(document)]
    (REPOSITORY / "docs" / FOLDER).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f'<!doctype html><meta charset="utf-8"><script src="{library.resolve().as_uri()}"></script>')
        _render(page, drawings)
    return 0


def _render(page: Path, drawings: Sequence[Drawing]) -> None:
    from screenshot import open_browser

    with open_browser() as browser:
        browser.get(page.as_uri())
        for drawing in drawings:
            for theme, colours in _THEMES.items():
                svg = browser.execute_async_script(_RENDER, drawing.text, _FONT, colours)
                if svg.startswith("error"):
                    sys.exit(f"{drawing.title}: {svg}")
                file = REPOSITORY / "docs" / drawing.file(theme)
                file.write_text(f"{_POINTS.sub('', svg)}\n{drawing.mark}\n")
                print(file)


if __name__ == "__main__":
    raise SystemExit(main())
