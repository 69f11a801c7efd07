"""No pickle is loaded, no credentials are stored, and no file is written outside its folder."""

import ast
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from recon_worker.cli.main import main
from recon_worker.spool.outbox import Outbox
from tests.faults.proxy import Fault, always
from tests.paths import REPOSITORY
from tests.samples import make_run, make_scan

pytestmark = pytest.mark.timeout(400)
CANARY = "canary7291"
SOURCES = sorted(p for name in ("recon_worker", "ptycho_torch", "scripts") for p in (REPOSITORY / name).rglob("*.py"))
UNPICKLES_ONE_TEXT = REPOSITORY / "ptycho_torch" / "files" / "archive.py"
"""Only with a flag, through an unpickler restricted to text arrays; see tests/ptycho_torch/test_archive.py."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_no_source_can_unpickle(source):
    tree = ast.parse(source.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]

    assert source == UNPICKLES_ONE_TEXT or not imported & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert not [c for c in calls if ".recv(" in c]  # a multiprocessing pipe unpickles
    assert not [c for c in calls if "_object" in c.split("(")[0] and c.startswith("dist.")]  # so do these
    assert all("allow_pickle=False" in c for c in calls if c.startswith("np.load("))
    loads = [c for c in calls if c.startswith("torch.load(") or (c.startswith("trainer.fit(") and "ckpt_path" in c)]
    assert all("weights_only=True" in c for c in loads)


class _Bomb:
    """Creates a file when unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_a_pickle_in_a_spool_is_not_loaded(tracking, tmp_path):
    target, bomb = make_run(tracking), _Bomb(tmp_path / "exploded")
    outbox = Outbox(tmp_path / "spool" / target.run_id)
    outbox.describe(target, make_scan(6, 1, truth=False))
    (outbox.folder / "raw" / "00000001_epoch_1.snapshot").write_bytes(pickle.dumps(bomb))
    (outbox.folder / "history").mkdir()
    (outbox.folder / "history" / "scales.json").write_bytes(pickle.dumps(bomb))

    assert main(["sync", str(outbox.folder)]) == 1

    np.savez(outbox.folder / "scan.npz", fixed_indices=np.array([bomb], dtype=object))
    (outbox.folder / "raw" / "00000002_epoch_2.snapshot").write_bytes(b"x")
    assert main(["sync", str(outbox.folder)]) == 2
    assert not bomb.place.exists()


@pytest.mark.parametrize("run_id", ["../../elsewhere", "/etc", "a/b", "", "x" * 65, None, 7, "a\x00b"])
def test_a_spool_that_names_another_place_for_its_run_is_refused(tmp_path, caplog, run_id):
    outbox = Outbox(tmp_path / "spool" / "run")
    record = {"version": 1, "run_id": run_id, "tracking_uri": f"sqlite:///{tmp_path}/db"}
    (outbox.folder / "run.json").write_text(json.dumps(record))

    assert main(["sync", str(outbox.folder)]) == 2

    assert "does not name an MLflow run" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["../outside.png", "/etc/passwd", "epoch_01/../../x.png", "epoch_01/patch_00/../../../x.png", "epoch_1/x.png",
     "epoch_01/patch_00/x.sh", "recon_log/x.csv", "epoch_01/patch_00/a b.png", "images/x.png"],
)  # fmt: skip
def test_only_names_of_this_program_are_written(tmp_path, name):
    from recon_worker.snapshot.artifact import Artifact

    with pytest.raises(ValueError, match="not an artifact name"):
        Outbox(tmp_path / "spool" / "run").put(Artifact(name, b"x"))

    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_whatever_the_umask_a_spool_is_for_its_owner_only(tmp_path):
    from recon_worker.snapshot.artifact import Artifact

    before = os.umask(0)
    try:
        outbox = Outbox(tmp_path / "spool" / "run")
        outbox.put(Artifact("epoch_01/patch_00/amp_pred.png", b"x"))
        outbox.put_raw(1, 1, [b"x"])
        outbox.keep_history({"scales.json": b"{}"})
    finally:
        os.umask(before)

    places = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
    assert {p.stat().st_mode & 0o777 for p in places if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in places if p.is_file()} == {0o600}


@pytest.fixture(scope="module")
def hostile_scan(raw_scan, tmp_path_factory):
    """A raw scan with path traversals in its metadata."""
    from ptycho_torch.files.archive import save_npz

    path = tmp_path_factory.mktemp("hostile") / "scan.npz"
    with np.load(raw_scan, allow_pickle=False) as file:
        arrays = dict(file)
    document = json.loads(arrays["_metadata"].item())
    for name in ("name", "sample", "experiment", "run_id", "epoch", "artifact_path"):
        document[name] = document.setdefault("additional_parameters", {})[name] = "../../../../../escaped"
    save_npz(path, {**arrays, "_metadata": np.array(json.dumps(document))})
    return path


@contextlib.contextmanager
def watched_titles():
    """Collects the process titles that other users of the machine can see meanwhile."""
    stop, seen = threading.Event(), set()
    watcher = threading.Thread(target=_watch_titles, args=(stop, seen))
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def _watch_titles(stop, seen):
    while not stop.wait(0.1):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen.add((process / "cmdline").read_bytes() + (process / "comm").read_bytes())
            except OSError:
                continue


def files_with(text, *folders):
    every = (p for folder in folders for p in folder.rglob("*") if p.is_file())
    return [p for p in every if text.encode() in p.read_bytes()]


@pytest.mark.slow
def test_a_password_is_nowhere_and_files_are_only_where_they_belong(server, proxy, hostile_scan, tmp_path):
    proxy.rule = always(Fault(status=401), lambda method, path: method == "PUT" and "epoch_" in path)
    places = {name: tmp_path / name for name in ("work", "home", "temporary", "out")}
    for place in places.values():
        place.mkdir()
    words = [sys.executable, REPOSITORY / "scripts/training/train.py", "--train_data_file", hostile_scan]
    words += ["--output_dir", places["out"], "--nepochs", 2, "--n_filters_scale", 1, "--accelerator", "cpu"]
    words += ["--recon-log-every-n-epochs", 1, "--recon-log-stitch", "--recon-log-async"]
    uri = proxy.uri.replace("//", f"//{CANARY}user:{CANARY}@")
    where = {"HOME": str(places["home"]), "TMPDIR": str(places["temporary"]), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **where, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(REPOSITORY)}
    with watched_titles() as titles:
        done = subprocess.run(
            list(map(str, words)), cwd=places["work"], env=environment, capture_output=True, text=True, timeout=120
        )

    assert done.returncode == 0, done.stderr
    assert "recon-worker sync" in done.stderr
    assert (places["out"] / "recon_spool").is_dir()
    assert CANARY not in done.stdout + done.stderr
    spooled = places["out"] / "recon_spool"
    assert list(spooled.rglob("events.csv"))
    assert files_with(CANARY, places["out"], places["home"], server.folder) == []
    assert not [title for title in titles if CANARY.encode() in title]
    elsewhere = [p for n in ("work", "home", "temporary") for p in places[n].rglob("*") if p.is_file()]
    assert [p for p in elsewhere if p.parent != places["home"] / ".cache/matplotlib"] == []  # Matplotlib's font list
    assert not list(tmp_path.rglob("*escaped*"))
