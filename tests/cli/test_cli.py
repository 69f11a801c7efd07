"""`recon-worker`: real subprocesses on spools, with a real MLflow store, dead servers and damaged files."""

import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import mlflow
import pytest

from recon_worker.cli.main import main
from recon_worker.cli.status import status
from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.png import read_png
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.codec import dump_snapshot, snapshot_header
from recon_worker.spool.outbox import Outbox, RunTarget
from tests.faults.harness import soon_s
from tests.samples import fill, layout_of, make_run, make_scan, snapshot
from tests.scripts import call

pytestmark = pytest.mark.timeout(200)
DONE, LEFT, ERROR, BUSY = range(4)
PER_EPOCH = 28
"""Files: 9 of each of 2 patches, 6 of the object, a complex picture of each, the summary."""
OF_RUN = {"recon_log/gallery.html", "recon_log/scales.json"}
WAITING = PER_EPOCH + 4
"""Per epoch in the outbox: files, 3 image cards, numbers."""


def command(*arguments):
    return [sys.executable, "-m", "recon_worker", *map(str, arguments)]


def recon_worker(*arguments, **environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return call(main, *arguments)


def recon_worker_process(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


def _filled(scan, epoch):
    """A snapshot and its memory."""
    buffer = bytearray(layout_of(scan).nbytes)
    one = snapshot(layout_of(scan).views(buffer), epoch)
    fill(one.arrays, epoch)
    return one, buffer


def add_raw(outbox, scan, epoch):
    """A snapshot that waits to be rendered; returns it."""
    layout, (one, buffer) = layout_of(scan), _filled(scan, epoch)
    outbox.put_raw(epoch, epoch, dump_snapshot(snapshot_header(one, layout), memoryview(buffer)))
    return one


@cache
def _rendered(epochs):
    """What rendering these epochs puts into an outbox, and the files of its history."""
    scan, history = make_scan(), History()
    made = [one for epoch in epochs for one in render(scan, _filled(scan, epoch)[0], history)]
    return made, history.files()


def make_spool(spool, target, raw=(1, 2), rendered=(3,)):
    scan, outbox = make_scan(), Outbox(spool / target.run_id)
    outbox.describe(target, scan)
    made, history = _rendered(tuple(rendered))
    for one in made:
        outbox.put(one)
    outbox.keep_history(history)
    for epoch in raw:
        add_raw(outbox, scan, epoch)
    return outbox


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def same_environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def target(tracking):
    return make_run(tracking)


@pytest.fixture
def outbox(tmp_path, target):
    return make_spool(tmp_path / "spool", target)


@pytest.fixture
def silent_server():
    """A port at which connections are made and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dead_server():
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_sync_renders_and_uploads_everything_and_removes_the_folder(tracking, outbox):
    done = recon_worker_process("sync", outbox.folder)

    assert done.returncode == DONE, done.stderr
    per_epoch = Counter(name.split("/")[0] for name in tracking.files())
    assert per_epoch == {"epoch_01": PER_EPOCH, "epoch_02": PER_EPOCH, "epoch_03": PER_EPOCH, "recon_log": 3}
    assert len(tracking.cards()) == 3 * 3
    logged = mlflow.MlflowClient(tracking.uri).get_metric_history(outbox.folder.name, "recon/stitched/amp_mae")
    assert sorted(metric.step for metric in logged) == [10, 20, 30]
    assert list(outbox.folder.parent.iterdir()) == []
    assert f"2 snapshots rendered, {3 * WAITING + 3} artifacts uploaded; nothing is left" in done.stdout


@pytest.mark.slow
def test_sync_of_an_emptied_spool_says_that_nothing_is_left(outbox):
    spool = outbox.folder.parent
    first, second, seen = (recon_worker(*words, spool) for words in (["sync"], ["sync"], ["status"]))

    assert (first.returncode, second.returncode, seen.returncode) == (DONE, DONE, DONE)
    assert second.stdout == seen.stdout == "nothing is left\n"


@pytest.mark.parametrize("others", [0, 1])
def test_a_sync_of_a_run_may_be_repeated_when_all_of_it_is_uploaded(outbox, capsys, others):
    folder = outbox.folder
    for number in range(others):
        make_spool(folder.parent, RunTarget(run_id=f"other{number}", tracking_uri="http://127.0.0.1:9"))
    assert main(["sync", str(folder)]) == DONE
    capsys.readouterr()

    assert main(["sync", str(folder)]) == main(["sync", str(folder), "--dry-run"]) == DONE
    assert main(["status", str(folder)]) == main(["render", str(folder), "--out", "out"]) == DONE
    assert capsys.readouterr().out == 4 * "nothing is left\n"


def test_synced_pictures_are_those_that_the_worker_would_have_made(tracking, outbox):
    scan = make_scan()
    one = add_raw(Outbox(outbox.folder.parent / "other"), scan, 1)
    made = list(render(scan, one, History.of_files(outbox.history())))
    expected = {one.path: one.data for one in made if one.path.startswith("epoch_")}

    assert main(["sync", str(outbox.folder)]) == DONE

    assert {name: tracking.path(name).read_bytes() for name in expected} == expected


@pytest.mark.slow
def test_sync_uploads_all_runs_of_a_spool(tracking, target, outbox, mlflow_database, tmp_path):
    other = type(tracking)(mlflow_database, tracking.experiment + "b", tmp_path / "other")
    make_spool(tmp_path / "spool", make_run(other))

    assert recon_worker("sync", tmp_path / "spool").returncode == DONE
    assert len(tracking.files()) == len(other.files()) == 3 * PER_EPOCH + 3


@pytest.mark.slow
def test_a_dead_server_costs_the_timeout_and_nothing_is_lost(tracking, target, tmp_path, dead_server):
    outbox = make_spool(tmp_path, replace(target, tracking_uri=dead_server))
    started = time.monotonic()
    done = recon_worker("sync", outbox.folder, "--timeout", 2)

    assert time.monotonic() - started < 2 + 2 * soon_s()
    assert done.returncode == LEFT
    assert "the time is over (--timeout)" in done.stderr
    assert len(list(outbox.artifacts())) == 3 * WAITING + 3

    again = recon_worker("sync", outbox.folder, "--tracking-uri", tracking.uri)

    assert again.returncode == DONE, again.stderr
    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert not outbox.folder.exists()


def test_a_password_in_the_environment_is_never_shown(target, tmp_path, dead_server):
    outbox = make_spool(tmp_path, replace(target, tracking_uri=dead_server), raw=())
    secret = dead_server.replace("//", "//me:canary@")
    done = recon_worker("sync", outbox.folder, "--timeout", 1, MLFLOW_TRACKING_URI=secret)

    assert done.returncode == LEFT
    assert dead_server in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_a_silent_server_costs_the_timeout_too(target, tmp_path, silent_server):
    outbox = make_spool(tmp_path, replace(target, tracking_uri=silent_server), raw=())
    started = time.monotonic()
    done = recon_worker("sync", outbox.folder, "--timeout", 1)

    assert time.monotonic() - started < 1 + 2 * soon_s()
    assert done.returncode == LEFT
    assert len(list(outbox.artifacts())) == WAITING + 2


def test_a_run_that_the_server_does_not_know_is_named_at_once(tracking, target, tmp_path):
    outbox = make_spool(tmp_path, replace(target, run_id="0" * 32), raw=())
    done = recon_worker("sync", outbox.folder)

    assert done.returncode == LEFT
    assert "trying again does not help" in done.stderr
    assert "0" * 32 in done.stderr
    assert len(list(outbox.artifacts())) == WAITING + 2


def test_a_deleted_run_keeps_its_spool(tracking, target, outbox, caplog):
    mlflow.MlflowClient(tracking.uri).delete_run(target.run_id)

    assert main(["sync", str(outbox.folder)]) == LEFT

    assert f"run {target.run_id} is deleted" in caplog.text
    assert len(list(outbox.artifacts())) == 3 * WAITING + 3


def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path, caplog):
    absent = tmp_path / "absent.db"
    outbox = make_spool(tmp_path / "spool", RunTarget(run_id="abc", tracking_uri=f"sqlite:///{absent}"))

    assert main(["sync", str(outbox.folder)]) == LEFT

    assert f"there is no database {absent}" in caplog.text
    assert not absent.exists()


@pytest.mark.slow
def test_a_database_whose_uri_has_options_is_found(tracking, outbox):
    done = recon_worker("sync", outbox.folder, "--tracking-uri", f"{tracking.uri}?timeout=30")

    assert done.returncode == DONE, done.stderr
    assert len(tracking.files()) == 3 * PER_EPOCH + 3


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


@pytest.mark.slow
def test_a_second_sync_says_that_another_process_is_at_work(outbox):
    code = "import sys; from pathlib import Path; from recon_worker.spool.lock import take_lock\n"
    code += "take_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(outbox.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        second = recon_worker_process("sync", outbox.folder)
        (seen,) = json.loads(recon_worker_process("status", outbox.folder, "--json").stdout)
        holder.kill()

    assert second.returncode == BUSY
    assert "in use by a training run or by another sync" in second.stderr
    assert seen["in_use"] is True
    assert recon_worker("sync", outbox.folder).returncode == DONE


def test_two_syncs_at_once_upload_everything_once(tracking, outbox):
    both = [subprocess.Popen(command("sync", outbox.folder), stderr=subprocess.PIPE) for _ in range(2)]
    for one in both:
        one.communicate(timeout=60)

    assert DONE in (codes := {one.returncode for one in both})
    assert codes <= {DONE, BUSY}
    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert len(tracking.cards()) == len(set(tracking.cards())) == 3 * 3
    logged = mlflow.MlflowClient(tracking.uri).get_metric_history(outbox.folder.name, "recon/stitched/amp_mae")
    assert sorted(metric.step for metric in logged) == [10, 20, 30]


def test_a_killed_sync_is_completed_by_the_next_one(tracking, outbox):
    with subprocess.Popen(command("sync", outbox.folder)) as first:
        deadline = time.monotonic() + 30
        while len(outbox.raw()) == 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)

    assert recon_worker("sync", outbox.folder).returncode == DONE
    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert list(outbox.folder.parent.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b[:-9] + b"x" + b[-8:], lambda b: b"", lambda b: b * 2])
def test_a_damaged_snapshot_is_moved_aside_and_the_rest_goes_on(tracking, outbox, damage, caplog, capsys):
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


def test_what_a_killed_writer_left_half_written_goes_with_the_folder(outbox):
    (outbox.folder / "raw" / ".recon-log-00000007_epoch_7.snapshot.4711").write_bytes(b"half")

    assert main(["sync", str(outbox.folder)]) == DONE

    assert not outbox.folder.exists()


def test_dry_run_and_status_change_nothing(outbox):
    before = files(outbox.folder)
    dry, seen = recon_worker("sync", outbox.folder, "--dry-run"), recon_worker("status", outbox.folder)

    assert (dry.returncode, seen.returncode) == (DONE, DONE)
    assert "2 snapshots to render" in dry.stdout
    assert f"{WAITING + 2} artifacts to upload" in dry.stdout
    assert files(outbox.folder) == before


def test_status_looks_at_a_spool_that_is_being_filled_and_emptied(outbox):
    finished = threading.Event()

    def work():
        for number in itertools.cycle(range(4, 50)):
            name = f"epoch_{number:02d}/patch_00/amp_pred.png"
            outbox.put(Artifact(name, b"png"))
            outbox.remove(name, outbox.version(name))
            if finished.is_set():
                return

    writer = threading.Thread(target=work)
    writer.start()
    try:
        seen = [status(outbox.folder) for _ in range(100)]
    finally:
        finished.set()
        writer.join()

    assert {one.snapshots for one in seen} == {2}
    assert {one.artifacts for one in seen} <= {WAITING + 2, WAITING + 3}


def test_status_counts_what_waits_and_shows_no_credentials(tmp_path, capsys):
    outbox = make_spool(tmp_path, RunTarget(run_id="abc", tracking_uri="https://me:canary@host.example"))
    (outbox.folder / "run.json").write_text(
        '{"version":1,"run_id":"abc","tracking_uri":"https://me:canary@h\\u001b[2J"}'
    )
    os.utime(outbox.raw()[0], (time.time() - 7200,) * 2)

    assert main(["status", str(tmp_path), "--json"]) == main(["status", str(tmp_path)]) == DONE

    (machine, _, words) = capsys.readouterr().out.partition("\n]\n")
    (one,) = json.loads(machine + "]")
    assert (one["run_id"], one["snapshots"], one["artifacts"], one["in_use"]) == ("abc", 2, WAITING + 2, False)
    assert one["snapshots_bytes"] == outbox.raw_bytes()
    assert 7200 <= one["oldest_s"] < 7260
    assert "2 h old" in words
    assert "canary" not in machine + words
    assert "\x1b" not in machine + words


def test_one_unreadable_run_does_not_hide_the_others(outbox, capsys, caplog):
    Outbox(outbox.folder.parent / "broken")

    assert main(["status", str(outbox.folder.parent)]) == ERROR

    assert "2 snapshots to render" in capsys.readouterr().out
    assert "broken is not a spool" in caplog.text


def test_render_writes_all_pictures_and_changes_nothing(outbox, tmp_path):
    before = files(outbox.folder)
    done = recon_worker("render", outbox.folder, "--out", tmp_path / "out")

    pictures = list((tmp_path / "out" / outbox.folder.name).rglob("*.png"))
    assert done.returncode == DONE, done.stderr
    assert len(pictures) == 3 * PER_EPOCH
    assert all(read_png(p).values.size for p in pictures if p.name not in ("complex.png", "summary.png"))
    assert {str(p.relative_to(tmp_path / "out")).split("/")[1] for p in pictures} == {f"epoch_0{e}" for e in (1, 2, 3)}
    assert files(outbox.folder) == before


def test_render_names_what_is_damaged_and_draws_the_rest(outbox, tmp_path, caplog):
    outbox.raw()[0].write_bytes(b"torn")

    assert main(["render", str(outbox.folder), "--out", str(tmp_path / "out")]) == LEFT

    assert "raw/00000001_epoch_1.snapshot cannot be drawn" in caplog.text
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2 * PER_EPOCH


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sync", "{}/absent"], "absent is not there, and does not belong into a spool"),
        (["sync", "{}/absent/run"], "run is not there"),
        (["sync", "{}"], "is not a spool"),
        (["render", "{}", "--out", "{}/out"], "choose a folder outside it"),
        (["sync", "{}", "--timeout", "nan"], "not a time in seconds"),
        (["sync", "{}", "--tracking-uri", "http://me:canary@h"], "it holds a password"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_named(words, message, tmp_path):
    (tmp_path / "something").write_text("")
    done = recon_worker(*(word.format(tmp_path) for word in words))

    assert done.returncode == ERROR
    assert message in done.stderr
    assert "canary" not in done.stderr


def test_help_comes_at_once_and_imports_nothing_heavy():
    code = "import sys; from recon_worker.cli.main import main\n"
    code += "try: main(['sync', '--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'mlflow', 'matplotlib', 'tqdm', 'PIL'} & set(sys.modules)))"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert time.monotonic() - started < soon_s()
    assert "exit codes:" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_the_lock_waits_for_a_look_at_it(outbox):
    from recon_worker.spool.lock import take_lock

    os.close(take_lock(outbox.folder))
    with (outbox.folder / "lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        code = "import os; from pathlib import Path; from recon_worker.spool.lock import take_lock; "
        code += f"take_lock(Path({str(outbox.folder)!r})); print('held')"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as taker:
            time.sleep(0.3)
            fcntl.flock(look, fcntl.LOCK_UN)
            assert taker.communicate(timeout=30)[0] == "held\n"
