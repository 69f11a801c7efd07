"""`recon-worker render`: pictures without a server."""

import pytest

from recon_worker.cli.main import main
from recon_worker.pictures.png import read_png
from tests.cli.spools import DONE, LEFT, PER_EPOCH, files, recon_worker

pytestmark = pytest.mark.timeout(200)


def test_render_writes_all_pictures_and_changes_nothing(outbox, tmp_path):
    before = files(outbox.folder)
    done = recon_worker("render", outbox.folder, "--out", tmp_path / "out")

    pictures = list((tmp_path / "out" / outbox.folder.name).rglob("*.png"))
    assert done.returncode == DONE, done.stderr
    assert len(pictures) == 3 * PER_EPOCH
    assert all(read_png(p).values.size for p in pictures if p.name not in ("complex.png", "summary.png"))
    assert {str(p.relative_to(tmp_path / "out")).split("/")[1] for p in pictures} == {f"epoch_0{e}" for e in (1, 2, 3)}
    assert files(outbox.folder) == before


def test_render_reports_damaged_snapshots_and_draws_the_rest(outbox, tmp_path, caplog):
    outbox.raw()[0].write_bytes(b"torn")

    assert main(["render", str(outbox.folder), "--out", str(tmp_path / "out")]) == LEFT

    assert "raw/00000001_epoch_1.snapshot cannot be drawn" in caplog.text
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2 * PER_EPOCH
