"""Make the README's pictures from the output of `make demo`: the summary with the refined object, and the gallery.

python scripts/docs/readme_pictures.py demo_output docs/pictures
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from screenshot import main as screenshot


def main(argv: Sequence[str] | None = None) -> int:
    """Write demo_summary.png and demo_gallery.png; exit code 0, or 2 if the demo or the browser is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("demo", type=Path, help="output directory of the demo")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    arguments = parser.parse_args(argv)
    summary, galleries = arguments.demo / "refined" / "summary.png", arguments.demo.glob("mlruns/*/artifacts/recon_log")
    gallery = max(galleries, key=lambda path: path.stat().st_mtime, default=arguments.demo) / "gallery.html"
    if not summary.is_file() or not gallery.is_file():
        print(f"error: {arguments.demo} holds no finished demo; make the demo first.", file=sys.stderr)
        return 2
    shutil.copyfile(summary, arguments.output / "demo_summary.png")
    return screenshot([str(gallery), str(arguments.output / "demo_gallery.png")])


if __name__ == "__main__":
    raise SystemExit(main())
