"""The programs of docs/use run as they are printed, and log what their pages say."""

import math
import os
import re
import subprocess
import sys

import pytest

from tests.leaks import nothing_left
from tests.paths import REPOSITORY

PAGES = REPOSITORY / "docs" / "use"
PROGRAMS = {"lightning": 0, "plain-pytorch": 0, "ptychopinn": 0, "other-networks": 0, "other-networks, adapter": 1}
"""Position of each program among those of its page."""
TIMEOUT_S = 300
MESSAGES_OF_THE_LOGGING = "recon|stitched|Overlapping|extra pass|not scanned|not logged|spool"
SUMMARY = "Reconstructions: 2 submitted = 2 logged + 0 dropped + 0 spooled + 0 failed"
EXPECTED = (SUMMARY, "Reconstructions: every 3 epochs, the object stitched from ", "  to MLflow run ")


def blocks(page):
    """Python blocks of a page that begin in the first column."""
    return re.findall(r"^```python\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def programs(page):
    return [block for block in blocks(page) if block.startswith('"""')]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a program as `train.py` in an empty folder: run(text, *launcher) -> its output. Nothing may remain of it."""

    def in_empty_folder(text, *launcher):
        folder = tmp_path / "program"
        folder.mkdir()
        (tmp_path / "train.py").write_text(text)
        command = [sys.executable, *launcher, str(tmp_path / "train.py")]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

        assert done.returncode == 0, done.stderr
        return folder, done.stdout + done.stderr

    with nothing_left(monkeypatch):
        yield in_empty_folder


def only_run(folder):
    import mlflow

    (database,) = folder.rglob("mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(experiments)
    return client, found


def assert_logged(folder, output):
    client, found = only_run(folder)
    metrics, run_id = found.data.metrics, found.info.run_id
    pictures = {file.path for file in client.list_artifacts(run_id, "epoch_06/stitched")}
    names = (f"{quantity}_{kind}.png" for quantity in ("amp", "phase") for kind in ("pred", "gt", "error"))

    assert {f"epoch_06/stitched/{name}" for name in names} <= pictures
    assert math.isfinite(metrics["recon/stitched/phase_correlation"])
    assert math.isfinite(metrics["recon/stitched/amp_correlation"])
    assert found.info.status == "FINISHED"
    assert re.findall(r"^Epoch (\d): .*, logged in \d+\.\d s$", output, flags=re.MULTILINE) == ["3", "6"]
    lines = [line for line in output.splitlines() if not line.startswith(EXPECTED)]
    said = [line for line in lines if re.search(MESSAGES_OF_THE_LOGGING, line)]
    assert [line for line in said if "recon_worker" not in line or "Warning" in line] == []
    assert list(folder.rglob("recon_spool/*")) == []


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_of_a_page_runs_in_an_empty_folder_and_logs_stitched_pictures(name, run):
    folder, output = run(programs(name.partition(",")[0])[PROGRAMS[name]])

    assert_logged(folder, output)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 30)
def test_the_program_for_torchrun_logs_what_two_ranks_predicted(run):
    text = programs("plain-pytorch")[0].partition("def main():")[0]
    (main,) = (block for block in blocks("plain-pytorch") if "init_process_group" in block)
    folder, output = run(text + main, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

    assert_logged(folder, output)


def test_the_adapter_of_the_page_is_short():
    adapter = programs("other-networks")[1].partition("class Adapter:")[2].partition("\nclass ")[0]

    assert len([line for line in adapter.splitlines() if line.strip()]) <= 15


def test_every_page_has_a_program_and_every_program_is_run():
    found = [f"{page.stem} {i}" for page in PAGES.glob("*.md") for i in range(len(programs(page.stem)))]

    assert sorted(found) == sorted(f"{name.partition(',')[0]} {i}" for name, i in PROGRAMS.items())
