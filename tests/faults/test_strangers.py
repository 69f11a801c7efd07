"""A second user who owns the spool or the folders above it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from recon_worker.cli.main import main as recon_worker
from recon_worker.settings import WorkerSettings
from tests.cli.spools import make_spool
from tests.faults.harness import FLUSH_S, epochs, kill, nothing_left_behind, started, wait_until  # noqa: F401
from tests.samples import layout_of, log_epoch, make_run, make_scan

STRANGER = 65534
pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users"),
]
SWAP = 'mv "$1" "$1-moved" && ln -s "$2" "$1"'


@pytest.fixture
def place():
    """A folder that the stranger owns and both users can access."""
    folder = Path(tempfile.mkdtemp(prefix="recon-log-test-", dir="/tmp"))  # accessible to both users
    folder.chmod(0o755)
    os.chown(folder, STRANGER, STRANGER)
    yield folder
    shutil.rmtree(folder)


def test_a_spool_directory_of_somebody_else_is_refused_before_training(place):
    with pytest.raises(ValueError, match=r"spool_dir .* cannot be used: it belongs to the user .*Choose a folder of"):
        WorkerSettings(spool_dir=place)


def test_a_directory_like_tmp_is_accepted_and_one_that_does_not_exist_yet_too(place):
    WorkerSettings(spool_dir=place / "spool")
    place.chmod(0o1777)
    WorkerSettings(spool_dir=place)


def test_the_folder_of_a_strangers_run_is_refused_by_sync_and_status_and_the_others_are_processed(
    tracking, tmp_path, caplog
):
    own, strange = make_spool(tmp_path / "spool", make_run(tracking)), tmp_path / "spool" / "strange"
    shutil.copytree(own.folder, strange)
    os.chown(strange, STRANGER, STRANGER)
    before = sorted(strange.rglob("*"))

    assert recon_worker(["status", str(tmp_path / "spool")]) == recon_worker(["sync", str(tmp_path / "spool")]) == 2
    assert caplog.text.count(f"{strange} cannot be used: it belongs to the user") == 2
    assert (epochs(tracking), own.folder.exists()) == ({1, 2, 3}, False)
    assert sorted(strange.rglob("*")) == before


@pytest.fixture
def precious():
    """A folder of the user in which nothing may be written or removed."""
    folder = Path(tempfile.mkdtemp(prefix="recon-log-test-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("deaths", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["one worker", "another worker"])
def test_a_link_that_the_owner_of_the_parent_puts_in_the_spools_place_leads_nowhere(place, precious, tracking, deaths):
    scan, spool, target = make_scan(6, 1, truth=False), place / "spool", make_run(tracking)
    (precious / target.run_id / "outbox").mkdir(parents=True)
    (precious / target.run_id / "outbox" / ".recon-log-notes.2024").write_text("mine")
    worker = started(WorkerSettings(spool_dir=spool, flush_timeout_s=FLUSH_S), target, scan)
    log_epoch(worker, layout_of(scan), 1)
    wait_until(lambda: worker.stats.logged == 1)
    subprocess.run(["sh", "-c", SWAP, "sh", spool, precious], cwd="/", user=STRANGER, group=STRANGER, check=True)
    for _ in range(deaths):
        kill(worker)
    log_epoch(worker, layout_of(scan), 2)
    worker.close(FLUSH_S)

    assert (worker.stats.logged, worker.stats.restarts, epochs(tracking)) == (2, deaths, {1, 2})
    assert [p.name for p in precious.rglob("*") if p.is_file()] == [".recon-log-notes.2024"]
