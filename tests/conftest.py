"""Fixtures shared by all test folders."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel: more threads would only wait for each other

import fcntl
import gc
import itertools
import shutil
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests import USUAL_THRESHOLD
from tests.leaks import nothing_left
from tests.plain_sheets import plain_sheet
from tests.scripts import simulate

_BEING_UPLOADED = ".artifact.uploading."
"""Name prefix of files that MLflow is writing, or never finished because the client died."""


def artifacts_below(root: Path) -> list[str]:
    """Paths of the artifacts in a run's folder."""
    files = (p for p in root.rglob("*") if not p.name.startswith(_BEING_UPLOADED) and p.is_file())
    return sorted(str(p.relative_to(root)) for p in files)


@dataclass(frozen=True)
class Tracking:
    """An MLflow experiment of one test, in a database that all tests share (creating one takes seconds)."""

    uri: str
    experiment: str
    artifacts: Path

    def logger(self, **settings):
        from lightning.pytorch.loggers import MLFlowLogger

        return MLFlowLogger(
            self.experiment, tracking_uri=self.uri, artifact_location=self.artifacts.as_uri(), **settings
        )

    def files(self) -> set[str]:
        """Artifact paths of the only run, without those of MLflow's image cards."""
        return {name for name in self._all_files() if not name.startswith("images/")}

    def pictures(self) -> dict[str, bytes]:
        """PNG files of the only run by name, without summaries."""
        names = sorted(one for one in self.files() if one.endswith(".png") and "summary" not in one)
        return {name: self.path(name).read_bytes() for name in names}

    def epoch_folders(self) -> list[str]:
        """Folders of the epochs of the only run, sorted."""
        return sorted({name.split("/")[0] for name in self.files()} - {"recon_log"})

    def cards(self) -> list[tuple[str, int]]:
        """Sorted (key, step) of every picture of MLflow's image cards; pictures logged twice appear twice.

        Without the card of the newest epoch, see `latest`.
        """
        cards = [(name[0].replace("~", "/"), int(name[2])) for name in self._card_pictures()]
        return sorted(card for card in cards if not card[0].endswith("recon/latest"))

    def latest(self) -> list[int]:
        """Sorted timestamps of the pictures on the card of the newest epoch; those logged twice appear twice."""
        names = self._card_pictures()
        assert all(name[2] == "0" for name in names if name[0] == "recon~latest")
        return sorted(int(name[4]) for name in names if name[0] == "recon~latest")

    def _card_pictures(self) -> list[list[str]]:
        """Parts of the names of the pictures of image cards: key, "step", step, "timestamp", time, random."""
        names = [Path(name).name.split("+") for name in self._all_files() if name.startswith("images/")]
        return [name for name in names if "compressed.webp" not in name]

    def _all_files(self) -> set[str]:
        roots = list(self.artifacts.glob("*/artifacts"))
        assert len(roots) <= 1
        return {name for root in roots for name in artifacts_below(root)}

    def path(self, name: str) -> Path:
        """Path of an artifact of the only run."""
        (root,) = self.artifacts.glob("*/artifacts")
        return root / name


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Exclude imports of test collection from garbage collections: a full one takes 0.5 s with them, 0.01 s without.

    Many tests collect garbage twice to detect leaks (`tests.leaks`).
    """
    import hypothesis  # noqa: F401  # a plugin imports it at the end and searches for referrers, which freezing hides

    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*USUAL_THRESHOLD)  # so that a test's garbage is collected during that test


@pytest.hookimpl(wrapper=True, optionalhook=True)  # optional: without pytest-xdist there is no such hook
def pytest_xdist_auto_num_workers():
    """Run one test more than there are processors: for a fifth of their time, tests wait for processes and sockets."""
    return 1 + (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run all tests with an MLflow server in one process, as starting one takes seconds (`pytest --dist loadgroup`)."""
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("server"))


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Restore SIGINT: background jobs of a script ignore it, and processes that tests interrupt would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """Keep the key that signs spools out of the user's home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def nothing_left_behind(monkeypatch):
    """Fails a test that leaves processes, threads or descriptors behind."""
    with nothing_left(monkeypatch):
        yield


@pytest.fixture
def plain_sheets(monkeypatch):
    """Replaces the summary sheet in this process for tests of other things: drawing one takes 0.2 s."""
    monkeypatch.setattr("recon_worker.pictures.artifacts.summary_png", plain_sheet)


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """Creates a folder once for all parallel test processes: common(name, make) -> Path."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make) -> Path:
        folder = root / f"common-{name}"
        with (root / f"common-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                half = root / f"common-{name}.half"
                half.mkdir()
                make(half)
                half.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def new_database(common):
    """Copies an empty MLflow database: its migrations take three seconds. new_database(folder) -> its URI."""

    def migrate(folder):
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    empty = common("mlflow", migrate) / "mlflow.db"
    return lambda folder: f"sqlite:///{shutil.copy(empty, folder)}"


@pytest.fixture(scope="session")
def mlflow_database(new_database, tmp_path_factory):
    return new_database(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def server(new_database, tmp_path_factory):
    """A tracking server for all tests that need one."""
    from tests.faults.servers import MlflowServer

    folder = tmp_path_factory.mktemp("server")
    new_database(folder)
    one = MlflowServer(folder)
    try:
        one.start()
        yield one
    finally:
        one.close()


_numbers = itertools.count()


@pytest.fixture
def new_tracking(mlflow_database, tmp_path):
    """Creates experiments with separate artifact folders, any number in a test."""

    def make():
        number = next(_numbers)
        return Tracking(mlflow_database, f"test-{number}", tmp_path / f"mlruns-{number}")

    return make


@pytest.fixture
def tracking(new_tracking):
    return new_tracking()


def _simulate(*arguments):
    done = simulate(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def raw_scan(common):
    sizes = ("--N", 64, "--object_size", 112, "--step", 14, "--nphotons", 1e6)
    return common("raw", lambda folder: _simulate("raw", *sizes, "--output", folder / "scan.npz")) / "scan.npz"


@pytest.fixture(scope="session")
def grid_lines(common):
    sizes = ("--object_size", 124, "--nimgs_train", 1, "--nimgs_test", 1, "--outer_offset_train", 20)
    make = partial(_simulate, "grid-lines", "--N", 64, "--nphotons", 1e6, *sizes, "--output")
    return common("grid", make) / "datasets" / "N64" / "gs1"
