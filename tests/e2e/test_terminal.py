"""What a user reads: on a terminal, where progress bars move, and in a log file. Kept in test_output/terminal."""

import re
import subprocess
import sys

import pytest

from tests.e2e.runs import DIFFRACTION, OBJECT, artifacts
from tests.paths import REPOSITORY, read_npz
from tests.terminal import keep, run_on_terminal

TIMEOUT_S = 500
pytestmark = [pytest.mark.timeout(TIMEOUT_S + 60), pytest.mark.slow]
of_one_training = pytest.mark.xdist_group("terminal")
BLOCK = (
    r"To view this run, start: mlflow ui --backend-store-uri 'sqlite:////.*mlflow\.db' --port 5000",
    r"MLflow run: http://127\.0\.0\.1:5000/#/experiments/\d+/runs/\w{32}\?workflowType=machine_learning",
    r"  name: [\w-]+, experiment: \S+",
    r"Training: to epoch 2, \d+ parameters on cpu; checkpoints: \S+",
    r"  \d+ samples of \S+, validation on \d+ of \S+",
    r"Reconstructions: every epoch, the object stitched from \d+ samples and 4 sample patches, compared with .*truth",
    r"  to MLflow run \w{32} at sqlite:////\S+, .*",
)
EPOCH = r"Epoch (\d): phase SSIM -?\d\.\d{3}( \([+-]\d\.\d{3}\))?(, (half-data )?FRC \d+\.\d px)?, logged in \d+\.\d s"
LOSSES = r"Epoch (\d) of 2: train_loss \S+, val_loss \S+, \d+\.\d s"
END = (
    r"Reconstructions: 2 submitted = 2 logged \+ 0 dropped \+ 0 spooled \+ 0 failed \(.*\)\..* "
    r"Best: epoch \d, phase SSIM \S+\.",
    r"Finished: train_loss \S+, val_loss \S+; best checkpoint: \S+best\.ckpt",
    r"Results: http://\S+",
)
NOISE = re.compile(r"GPU|TPU|Tip|litlogger|INFO|deprecated|[Ww]arn|Creating|Trainable|Trainer\.fit")


def training(script, train, test, folder, database, *more):
    program = [
        sys.executable,
        REPOSITORY / "scripts" / script,
        "--train_data_file",
        train,
        "--test_data_file",
        test,
    ]
    settings = ["--nepochs", "2", "--mlflow-tracking-uri", database, "--mlflow-experiment", folder / "experiment"]
    recon = ["--recon-log-every-n-epochs", "1", "--recon-log-stitch", "--output_dir", folder, "--accelerator", "cpu"]
    return [str(word) for word in (*program, *settings, *recon, *more)]


def assert_reads_well(lines, *between):
    """The lines are the block at the start, those of the epochs, and the end; `between` also occur once per epoch."""
    said = [line for line in lines if line]
    assert not [line for line in said if NOISE.search(line)]
    for pattern, line in zip(BLOCK, said, strict=False):
        assert re.fullmatch(pattern, line), line
    for pattern, line in zip(END, said[-len(END) :], strict=True):
        assert re.fullmatch(pattern, line), line
    rest = said[len(BLOCK) : -len(END)]
    for pattern in (EPOCH, *between):
        assert [match[1] for line in rest if (match := re.fullmatch(pattern, line))] == ["1", "2"], rest
    assert len(rest) == 2 * (1 + len(between)), rest


@pytest.fixture(scope="module")
def on_terminal(raw_scan, tmp_path_factory, mlflow_database):
    """Exit code, lines on the terminal and output directory of a training run."""
    folder = tmp_path_factory.mktemp("terminal")
    more = ("--recon-log-async", "--n_filters_scale", "1", "--logger", "mlflow", "--recon-log-num-patches", "4")
    command = training("training/train.py", raw_scan, raw_scan, folder, mlflow_database, *more)
    return *run_on_terminal(command, "train_terminal", timeout_s=TIMEOUT_S), folder


@of_one_training
def test_a_training_on_a_terminal_prints_a_block_a_line_per_epoch_and_a_summary(on_terminal):
    code, lines, _ = on_terminal

    assert code == 0
    assert_reads_well(lines)


@of_one_training
def test_the_command_line_leaves_every_artifact_under_mlruns(on_terminal, raw_scan):
    *_, folder = on_terminal

    count = int(read_npz(raw_scan)["xcoords"].size)
    root, names = artifacts(folder)
    patches = {f"epoch_02/patch_{i * (count // 4):02d}/{kind}.png" for i in range(4) for kind in OBJECT | DIFFRACTION}
    assert patches | {f"epoch_02/stitched/{kind}.png" for kind in OBJECT} <= names
    assert {"epoch_02/summary.png", "epoch_02/stitched/complex.png"} <= names
    assert {name.split("/")[0] for name in names} == {"epoch_01", "epoch_02", "images"}
    names_of_run = {"gallery.html", "scales.json", "events.csv", "evolution.gif"}
    assert {p.name for p in (root / "recon_log").iterdir()} == names_of_run
    assert "nepochs: 2" in (root / "config.yaml").read_text()


def test_a_training_into_a_file_prints_no_carriage_return_and_a_line_for_each_epoch(raw_scan, tmp_path):
    """With a new database, whose migrations MLflow would report."""
    new = f"sqlite:///{tmp_path}/mlflow.db"
    command = training("training/train.py", raw_scan, raw_scan, tmp_path, new, "--recon-log-async")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=True)
    keep("train_file", done.stdout.decode())

    assert b"\r" not in done.stdout
    assert b"\x1b" not in done.stdout
    assert_reads_well(done.stdout.decode().splitlines(), LOSSES)


def test_the_grid_lines_script_without_a_worker_prints_the_same_on_a_terminal(grid_lines, tmp_path, mlflow_database):
    train, test = grid_lines / "train.npz", grid_lines / "test.npz"
    command = training("studies/grid_lines_torch_runner.py", train, test, tmp_path, mlflow_database)
    code, lines = run_on_terminal(command, "grid_lines_terminal", timeout_s=TIMEOUT_S)

    assert code == 0
    assert_reads_well(lines)


def test_a_reconstruction_on_a_terminal_prints_its_metrics_only(raw_scan, tmp_path, train):
    checkpoint = train("raw")[0].checkpoint
    files = ["--checkpoint", checkpoint, "--data_file", raw_scan, "--output_dir", tmp_path / "made"]
    command = [sys.executable, REPOSITORY / "scripts/inference.py", *files, "--refine-passes", "2"]
    code, lines = run_on_terminal([str(word) for word in command], "inference_terminal", timeout_s=TIMEOUT_S)

    said = [line for line in lines if line]
    assert code == 0
    assert said[0].split() == ["stitched", "refined", "patches"]
    assert re.fullmatch(r"Epoch 2, step \d+: \d+ files in \S+", said[-1])
    assert not [line for line in said if NOISE.search(line)]


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_the_lines_do_not_break_the_progress_bar_of_another_training(tmp_path, bar):
    page = (REPOSITORY / "docs/use/lightning.md").read_text()
    (program,) = re.findall(r'^```python\n("""Train .*?)^```$', page, flags=re.MULTILINE | re.DOTALL)
    shown = f"callbacks=[__import__('lightning.pytorch.callbacks', fromlist=['{bar}']).{bar}(), callback]"
    (tmp_path / "program.py").write_text(program.replace("callbacks=[callback]", shown))
    path = {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(tmp_path / "program.py")]
    code, lines = run_on_terminal(command, f"lightning_{bar}", timeout_s=TIMEOUT_S, cwd=tmp_path, env=path)

    assert code == 0
    assert [match[1] for line in lines if (match := re.fullmatch(EPOCH, line))] == ["3", "6"], "\n".join(lines)
    (summary,) = (
        number for number, line in enumerate(lines) if line.startswith("Reconstructions: 2 submitted = 2 logged")
    )
    assert [line for line in lines[:summary] if "to upload" in line] == []
