"""`recon-worker render`: pictures without a server."""

from dataclasses import replace

import pytest

from recon_worker.cli.main import main
from recon_worker.pictures.png import read_png
from recon_worker.spool.outbox import Outbox
from tests.cli.spools import DONE, LEFT, PER_EPOCH, add_raw, files, recon_worker
from tests.samples import make_scan

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


def test_render_of_a_scan_without_measured_diffraction_shows_the_predicted(tmp_path, target):
    scan, outbox = replace(make_scan(), observed_diffraction=None, reference=True), Outbox(tmp_path / "spool" / "run")
    outbox.describe(target, scan)
    add_raw(outbox, scan, 1)

    assert main(["render", str(outbox.folder), "--out", str(tmp_path / "out")]) == DONE

    written = {str(file.relative_to(tmp_path / "out" / "run")) for file in (tmp_path / "out").rglob("*.png")}
    assert {name.split("/")[0] for name in written} == {"epoch_01"}
    assert {name for name in written if "diff" in name} == {f"epoch_01/patch_0{n}/diff_pred_logI.png" for n in (0, 1)}
    assert len(written) == 2 * (9 - 2) + 6 + 3 + 1  # patches, object, complex pictures, summary


def test_render_reports_damaged_snapshots_and_draws_the_rest(outbox, tmp_path, caplog):
    outbox.raw()[0].write_bytes(b"torn")

    assert main(["render", str(outbox.folder), "--out", str(tmp_path / "out")]) == LEFT

    assert "raw/00000001_epoch_1.snapshot cannot be rendered" in caplog.text
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2 * PER_EPOCH
