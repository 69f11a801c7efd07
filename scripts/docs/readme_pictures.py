"""Make the README's pictures from the output of `make demo`: the last summary and the gallery.

python scripts/docs/readme_pictures.py demo_output docs/pictures
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from screenshot import main as screenshot


def main(argv: Sequence[str] | None = None) -> int:
    """Write demo_summary.png and demo_gallery.png; exit code 0, or 2 where the demo or the browser is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("demo", type=Path, help="output directory of the demo")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    arguments = parser.parse_args(argv)
    summaries = sorted(arguments.demo.glob("mlruns/*/artifacts/epoch_*/summary.png"), key=lambda p: p.stat().st_mtime)
    if not summaries:
        print(f"error: {arguments.demo} holds no summary of a run; make the demo first.", file=sys.stderr)
        return 2
    shutil.copyfile(summaries[-1], arguments.output / "demo_summary.png")
    gallery = summaries[-1].parent.parent / "recon_log" / "gallery.html"
    return screenshot([str(gallery), str(arguments.output / "demo_gallery.png")])


if __name__ == "__main__":
    raise SystemExit(main())
