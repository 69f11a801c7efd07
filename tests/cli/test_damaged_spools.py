"""`recon-worker sync` on spools with damaged, foreign or incomplete files."""

import json
from pathlib import Path

import pytest

from recon_worker.cli.main import main
from tests.cli.spools import DONE, ERROR, LEFT, OF_RUN, PER_EPOCH, files, recon_worker

pytestmark = pytest.mark.timeout(200)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b[:40], id="torn"),
        pytest.param(lambda b: b[:-9] + b"x" + b[-8:], id="changed"),
        pytest.param(lambda b: b"", id="empty", marks=pytest.mark.slow),
        pytest.param(lambda b: b * 2, id="twice", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_snapshot_is_moved_aside_and_the_rest_is_uploaded(tracking, outbox, damage, caplog, capsys):
    bad = outbox.raw()[0]
    content = damage(bad.read_bytes())
    bad.write_bytes(content)

    assert main(["sync", str(outbox.folder)]) == LEFT

    (kept,) = outbox.damaged()
    assert kept.name == "00000001_epoch_1.snapshot.damaged"
    assert kept.read_bytes() == content
    assert f"kept as raw/{kept.name}" in caplog.text
    assert len(tracking.files()) == 2 * PER_EPOCH + 3
    assert main(["sync", str(outbox.folder)]) == LEFT
    assert main(["status", str(outbox.folder)]) == DONE
    assert "1 damaged snapshots, raw/*.damaged, which sync tries again only" in (words := capsys.readouterr().out)
    assert "upload with" not in words


def test_an_unreadable_scan_keeps_the_snapshots_and_uploads_the_rest(tracking, outbox):
    (outbox.folder / "scan.npz").write_bytes(b"torn")

    assert main(["sync", str(outbox.folder)]) == ERROR

    assert len(outbox.raw()) == 2
    assert tracking.files() >= OF_RUN
    assert len(tracking.files()) == PER_EPOCH + 2


def test_a_spool_of_a_newer_version_is_left_alone(outbox, capsys):
    place = outbox.folder / "run.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "version": 2}))
    before = files(outbox.folder)
    done = recon_worker("sync", outbox.folder)

    assert done.returncode == ERROR
    assert "spool version 2; this one reads 1" in done.stderr
    assert files(outbox.folder) == {**before, Path("lock"): b""}


@pytest.mark.parametrize("name", ["outbox/epoch_09", "outbox/epoch_03/patch_00/amp_pred.png", "raw/x.snapshot", "lock"])
def test_links_in_a_spool_are_refused(tracking, outbox, tmp_path, name):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "amp_pred.png").write_text("secret")
    place = outbox.folder / name
    place.unlink(missing_ok=True)
    place.symlink_to(secret)

    assert main(["sync", str(outbox.folder)]) == ERROR

    assert tracking.files() == set()
    assert len(outbox.raw()) == 2


def test_other_files_in_a_spool_are_neither_uploaded_nor_removed(tracking, outbox):
    (outbox.folder / "outbox" / "notes.txt").write_text("mine")

    assert main(["sync", str(outbox.folder)]) == LEFT

    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert (outbox.folder / "outbox" / "notes.txt").read_text() == "mine"


def test_incomplete_files_of_a_killed_writer_are_removed_with_the_folder(outbox):
    (outbox.folder / "raw" / ".recon-log-00000007_epoch_7.snapshot.4711").write_bytes(b"half")

    assert main(["sync", str(outbox.folder)]) == DONE

    assert not outbox.folder.exists()
