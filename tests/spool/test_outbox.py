"""Permissions of a spool, its temporary files, and folders that are swapped or removed."""

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recon_worker.pictures.records import DESCRIPTION_NAME
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.folder import SpoolError
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.snapshot_file import RawFile


@pytest.fixture(params=[0, 0o002, 0o277], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _modes(folder):
    return {p.stat().st_mode & 0o777 for p in (folder, *folder.rglob("*")) if p.is_dir()}


@pytest.mark.usefixtures("umask")
def test_folders_of_artifacts_are_private_whatever_the_umask(tmp_path):
    outbox = Outbox(tmp_path / "run")
    outbox.put(Artifact("epoch_01/patch_00/amp_pred.png", b"x"))
    outbox.put(Artifact("cards/epoch_01/summary.step_1.png", b"x"))
    outbox.keep_history({"scales.json": b"{}"})

    assert _modes(tmp_path / "run") == {0o700}


def test_a_run_folder_becomes_private_and_its_parent_is_unchanged(tmp_path):
    folder = tmp_path / "spool" / "run"
    (folder / "outbox" / "epoch_01").mkdir(parents=True)
    for place in (tmp_path / "spool", folder, folder / "outbox", folder / "outbox" / "epoch_01"):
        place.chmod(0o755)
    Outbox(folder).put(Artifact("epoch_01/summary.png", b"x"))

    assert _modes(folder) == {0o700}
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o755


@pytest.fixture
def scratch(monkeypatch):
    """Returns the temporary folder of an outbox; restores the default afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    return lambda outbox: outbox.take_scratch() or Path(tempfile.gettempdir())


def test_temporary_files_lie_in_the_spool_and_do_not_prevent_its_removal(tmp_path, scratch):
    outbox = Outbox(tmp_path / "run")
    place = scratch(outbox)
    (place / "image").mkdir()
    (place / "image" / "summary.png").write_bytes(b"x")

    assert place.parent.samefile(outbox.folder)
    assert outbox.is_empty
    outbox.discard()
    assert not outbox.folder.exists()


def test_sweeping_removes_temporary_files_and_keeps_artifacts(tmp_path, scratch):
    outbox = Outbox(tmp_path / "run")
    outbox.put(Artifact("epoch_01/summary.png", b"x"))
    (scratch(outbox) / "summary.png").write_bytes(b"x")
    outbox.sweep()

    assert [p.name for p in outbox.folder.rglob("*") if p.is_file()] == ["summary.png"]
    assert not outbox.is_empty


def test_other_hidden_files_are_not_swept(tmp_path):
    outbox = Outbox(tmp_path / "run")
    others = [outbox.folder / name for name in (".notes.2024", "raw/.cache.1/model", ".backup.7")]
    ours = [outbox.folder / name for name in (".recon-log-run.json.7", "raw/.recon-log-capture_0.7")]
    for place in (*others, *ours):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"x")
    outbox.sweep()

    assert [place.exists() for place in (*others, *ours)] == 3 * [True] + 2 * [False]
    assert not outbox.is_empty


def test_the_default_temporary_folder_stays_if_the_spool_cannot_be_written(tmp_path, scratch):
    outbox = Outbox(tmp_path / "run")
    shutil.rmtree(outbox.folder)

    assert scratch(outbox) == Path(os.environ.get("TMPDIR", "/tmp"))


@pytest.fixture
def swapped(tmp_path):
    """An outbox whose folder was renamed and replaced by a link, and the target of the link."""
    outbox, stranger = Outbox(tmp_path / "run"), tmp_path / "stranger"
    outbox.put(Artifact("epoch_01/summary.png", b"ours"))
    for name in ("outbox/epoch_01/summary.png", "raw/00000001_epoch_1.snapshot", ".recon-log-x.7", "run.json"):
        (stranger / name).parent.mkdir(parents=True, exist_ok=True)
        (stranger / name).write_bytes(b"precious")
    outbox.folder.rename(tmp_path / "moved")
    outbox.folder.symlink_to(stranger)
    return outbox, stranger


def test_what_takes_the_name_of_a_spool_is_neither_written_to_nor_removed(swapped, tmp_path):
    outbox, stranger = swapped
    before = {p: p.read_bytes() for p in stranger.rglob("*") if p.is_file()}

    outbox.put(Artifact("epoch_02/summary.png", b"ours"))
    raw = outbox.put_raw(1, 1, [b"ours"])
    outbox.free_raw(raw, None)
    outbox.mark_damaged(outbox.put_raw(2, 2, [b"ours"]))
    RawFile(outbox.held(outbox.capture_file(0)), 100).path.unlink()
    outbox.take_lock()
    outbox.unlock()
    outbox.sweep()
    for name in list(outbox.artifacts()):
        outbox.remove(name, outbox.version(name))
    outbox.discard()

    assert {p: p.read_bytes() for p in stranger.rglob("*") if p.is_file()} == before
    assert [p.name for p in (tmp_path / "moved" / "raw").iterdir()] == ["00000002_epoch_2.snapshot.damaged"]
    with pytest.raises(SpoolError, match="is a link"):
        Outbox(outbox.folder)


def test_what_takes_the_name_of_a_spool_directory_while_a_run_leaves_it_keeps_its_folder(tmp_path, monkeypatch):
    outbox, stranger = Outbox(tmp_path / "spool" / "run"), tmp_path / "stranger"
    (stranger / "run").mkdir(parents=True)

    def swap(outbox):
        (tmp_path / "spool").rename(tmp_path / "moved")
        (tmp_path / "spool").symlink_to(stranger)
        return True

    monkeypatch.setattr(Outbox, "is_empty", property(swap))
    outbox.discard()

    assert [p.name for p in stranger.iterdir()] == ["run"]


def test_a_folder_that_is_there_for_something_else_is_no_spool_and_stays_as_it_is(tmp_path):
    (tmp_path / "run" / "artifacts").mkdir(parents=True)
    (tmp_path / "run").chmod(0o755)
    with pytest.raises(SpoolError, match="holds artifacts"):
        Outbox(tmp_path / "run")

    assert [p.name for p in (tmp_path / "run").iterdir()] == ["artifacts"]
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


def test_a_removed_spool_is_created_again(tmp_path):
    outbox = Outbox(tmp_path / "run")
    shutil.rmtree(outbox.folder)
    outbox.put(Artifact("epoch_01/summary.png", b"x"))

    assert [p.name for p in outbox.folder.rglob("*.png")] == ["summary.png"]


def test_files_of_one_folder_are_written_and_removed_by_many_threads(tmp_path):
    outbox = Outbox(tmp_path / "run")
    names = [f"epoch_{n % 3:02d}/patch_00/picture_{n}.png" for n in range(300)]

    def pass_through(name):
        outbox.put(Artifact(name, b"png"))
        outbox.remove(name, outbox.version(name))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(pass_through, names))

    outbox.discard()
    assert not outbox.folder.exists()


def test_a_description_of_an_older_snapshot_does_not_replace_a_newer_one(tmp_path):
    outbox = Outbox(tmp_path / "run")
    for taken_unix_s in (20.0, 10.0):
        outbox.put(Artifact(DESCRIPTION_NAME, str(taken_unix_s).encode()), taken_unix_s)
    assert outbox.local_path(DESCRIPTION_NAME).read_bytes() == b"20.0"

    outbox.put(Artifact(DESCRIPTION_NAME, b"30.0"), 30.0)
    assert outbox.local_path(DESCRIPTION_NAME).read_bytes() == b"30.0"
