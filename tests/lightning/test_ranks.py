"""Trainings on several ranks log once, completely, and as one rank would; no rank waits for one that skipped a step."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from recon_worker.cli.console import ExitCode
from recon_worker.cli.main import main
from tests.conftest import Tracking
from tests.faults.harness import wait_until
from tests.lightning.forked_ranks import fork_ranks
from tests.lightning.rank_training import Case, train
from tests.paths import REPOSITORY, read_npz

TIMEOUT_S = 110


class Launcher:
    """Starts training runs on several ranks, and reads their results."""

    def __init__(self, folder, uri):
        self.folder, self.uri = folder, uri

    def case(self, name, **settings):
        return Case(name=name, uri=self.uri, artifacts=str(self.folder / name), **settings)

    def run(self, ranks, *cases):
        """Train the cases one after the other; return the exit code."""
        plan = self._plan(cases)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [*torchrun, "-m", "tests.lightning.rank_training", str(plan)]
        done = subprocess.run(command, cwd=REPOSITORY, timeout=TIMEOUT_S, capture_output=True, text=True)
        self.output = done.stdout + done.stderr
        return done.returncode

    def fork(self, ranks, *cases):
        """Train as `run` does, without torchrun, in half of its processor time."""
        processes = fork_ranks("tests.lightning.rank_training", self._plan(cases), self.folder, ranks)
        for one in processes:
            one.join(TIMEOUT_S)
        self.output = "".join((self.folder / f"rank{rank}.txt").read_text() for rank in range(ranks))
        return max(abs(one.exitcode) for one in processes)

    def _plan(self, cases):
        plan = self.folder / "cases.json"
        plan.write_text(json.dumps([dataclasses.asdict(case) for case in cases]))
        return plan

    def found(self, name, rank):
        return json.loads((self.folder / f"{name}.rank{rank}.json").read_text())

    def tracking(self, name):
        return Tracking(self.uri, str(self.folder / name), self.folder / name)


@pytest.fixture
def launcher(mlflow_database, tmp_path):
    return Launcher(tmp_path, mlflow_database)


def same_arrays(one, other, epoch):
    """Whether the stitched arrays of an epoch agree in two trees, up to rounding in batches of other sizes."""
    a, b = (read_npz(tree.path(f"epoch_{epoch:02d}/stitched/arrays.npz")) for tree in (one, other))
    return all(np.allclose(a[name], b[name], rtol=0, atol=1e-6, equal_nan=True) for name in ("object", "coverage"))


def same_pixels(one, other):
    """Whether all pictures agree in two trees, except the sheets, which show times and steps."""
    names = [name for name in one.files() if name.endswith(".png") and "summary" not in name]
    return bool(names) and all(one.path(name).read_bytes() == other.path(name).read_bytes() for name in names)


ONE_SHAPE = {"predictions": {}}
SHAPES = ONE_SHAPE | {
    "no_predictions": {"returns_predictions": False, "length": 40},
    "one_sample": {"length": 1},
}
MORE_SHAPES = {
    "supervised": {"supervised": True},
    "training_set": {"validates": False},
    "all_on_each": {"use_distributed_sampler": False},
}
slow = pytest.mark.slow


@pytest.mark.xdist_group("forked ranks")
@pytest.mark.parametrize(
    ("ranks", "shapes", "run"),
    [
        (2, ONE_SHAPE, Launcher.fork),
        *(pytest.param(*cell, Launcher.run, marks=slow) for cell in [(2, SHAPES), (2, MORE_SHAPES), (4, SHAPES)]),
    ],
    ids=["2-one", "2", "2-more", "4"],
)
def test_the_artifacts_are_those_of_a_single_process(launcher, ranks, shapes, run):
    for name, settings in shapes.items():
        train(launcher.case(f"{name}_1", **settings), launcher.folder)
    cases = [launcher.case(f"{name}_{ranks}", **settings) for name, settings in shapes.items()]
    assert run(launcher, ranks, *cases) == 0, launcher.output

    for name in shapes:
        alone, together = launcher.tracking(f"{name}_1"), launcher.tracking(f"{name}_{ranks}")
        assert together.files() == alone.files()
        assert same_pixels(alone, together)
        assert same_arrays(alone, together, epoch=2)
        assert [launcher.found(f"{name}_{ranks}", rank)["errors"] for rank in range(ranks)] == [0] * ranks


@pytest.mark.xdist_group("forked ranks")
def test_a_logger_on_rank_zero_is_enough(launcher):
    one = launcher.case("one", one_logger=True, epochs=1, baseline=False)

    assert launcher.fork(2, one) == 0, launcher.output

    assert launcher.tracking("one").epoch_folders() == ["epoch_01"]
    assert [launcher.found("one", rank)["errors"] for rank in (0, 1)] == [0, 0]


@slow
@pytest.mark.parametrize("returns", [True, False], ids=["returned", "seen by the hook"])
def test_training_is_bit_identical_on_every_rank_and_needs_no_extra_pass(launcher, returns):
    settings = {"learning_rate": 1e-2, "epochs": 3, "baseline": False, "returns_predictions": returns}
    cases = [launcher.case("on", worker=True, **settings), launcher.case("off", logs=False, **settings)]
    assert launcher.run(2, *cases) == 0, launcher.output

    for rank in (0, 1):
        on, off = (launcher.found(name, rank) for name in ("on", "off"))
        assert len(on["losses"]) == 3 * 2
        assert on == off
    assert {"epoch_03/stitched/amp_pred.png", "recon_log/events.csv"} <= launcher.tracking("on").files()


@slow
def test_a_limited_validation_is_stitched_as_far_as_it_goes_on_all_ranks(launcher):
    limited = launcher.case("limited", limit_val_batches=1, length=40)
    assert launcher.run(2, limited) == 0, launcher.output

    positions = read_npz(launcher.tracking("limited").path("epoch_01/stitched/arrays.npz"))["positions_px"]
    assert launcher.found("limited", 0)["errors"] == 0
    assert len(positions) == 2 * 5  # a batch on each rank


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_capture_costs_one_event_and_hangs_nobody(launcher, rank):
    assert launcher.run(2, launcher.case("failing", fails_on_rank=rank, baseline=False)) == 0, launcher.output

    epochs = set(launcher.tracking("failing").epoch_folders())
    assert epochs == {"epoch_02"}
    assert [launcher.found("failing", one)["errors"] for one in (0, 1)] == [1, 1]


@slow
def test_a_validation_set_without_an_index_leaves_all_ranks_with_the_training_set(launcher):
    assert launcher.run(2, launcher.case("stream", streams=True)) == 0, launcher.output

    assert launcher.output.count("Reconstructions are logged from the training set") == 1
    assert [launcher.found("stream", rank)["errors"] for rank in (0, 1)] == [0, 0]
    assert "epoch_02/stitched/amp_pred.png" in launcher.tracking("stream").files()


@slow
def test_predictions_of_another_shape_are_named_and_hang_nobody(launcher):
    assert launcher.run(2, launcher.case("small", small=True, returns_predictions=False)) == 0, launcher.output

    for share in (12, 11):  # of the extra pass before training
        assert f"predictions have the shape ({share}, 1, 8, 8); expected: (B, 1, 16, 16)" in launcher.output
    assert [launcher.found("small", rank)["errors"] for rank in (0, 1)] == [3, 3]


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_strict_training_ends_on_all_ranks_if_one_cannot_capture(launcher, rank):
    failing = launcher.case("strict", fails_on_rank=rank, strict=True, baseline=False, worker=True)
    assert launcher.run(2, failing) != 0

    assert "nothing can be copied" in launcher.output
    assert f"rank {rank} failed to do its part" in launcher.output
    assert [launcher.found("strict", one)["losses"] != [] for one in (0, 1)] == [True, True]


@slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["exception", "SIGKILL"])
def test_when_a_rank_dies_the_others_end_and_what_was_submitted_is_logged_or_spooled(launcher, rank, how):
    dying = launcher.case("dying", dies_on_rank=rank, dies_by=how, worker=True, epochs=3)
    assert launcher.run(2, dying) != 0
    assert "this rank dies" in launcher.output

    for spool in launcher.folder.glob("spool/*"):  # torchrun's SIGTERM ends a flush
        wait_until(lambda spool=spool: main(["sync", str(spool)]) != ExitCode.BUSY, 60)  # an orphaned worker continues

    files = launcher.tracking("dying").files()
    assert {"epoch_00/summary.png", "epoch_01/stitched/amp_pred.png", "epoch_01/summary.png"} <= files
