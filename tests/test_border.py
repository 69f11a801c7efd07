"""Libraries that each part of `recon_worker` loads: the worker's side starts without the training side."""

import subprocess
import sys
from importlib import import_module

import pytest

import recon_worker

WALK = """
import importlib, pkgutil, sys
import recon_worker
for part in pkgutil.iter_modules(recon_worker.__path__, "recon_worker."):
    if part.name.rpartition(".")[2] in {"lightning", "capture", "__main__"}:
        continue
    for module in pkgutil.walk_packages(getattr(importlib.import_module(part.name), "__path__", []), part.name + "."):
        importlib.import_module(module.name)
"""
TRAINING_SIDE = {"torch", "lightning", "pytorch_lightning", "ptycho_torch"}
HEAVY = {*TRAINING_SIDE, "numpy", "PIL", "matplotlib", "mlflow", "scipy", "skimage", "tenacity"}


FOR_TORCH = {"Adapter", "Predictions", "PtychoPinnAdapter", "ReconLogger", "Sample", "TupleAdapter"}
FOR_READING = {"DecodedImage", "LoggedObject", "LoggedPatch", "ReadError", "ReconRun", "open_run", "read_png"}
FOR_TRAINING = set(recon_worker.__all__) - FOR_READING - FOR_TORCH
PURE = ("reconstruction.stitching", "reconstruction.alignment", "pictures.png")
STAGES = {
    "command": "import recon_worker.cli.main; dir(recon_worker)",
    "training": "\n".join(f"from recon_worker import {name}" for name in sorted(FOR_TRAINING)),
    "pure": "\n".join(f"import recon_worker.{module}" for module in PURE),
    "reading": "\n".join(f"from recon_worker import {name}" for name in sorted(FOR_READING)),
    "plain loop": "\n".join(f"from recon_worker import {name}" for name in sorted(FOR_TORCH)),
    "callback": "import recon_worker.lightning; dir(recon_worker.lightning)",
    "logger": "from recon_worker.lightning import QueuedMLFlowLogger; QueuedMLFlowLogger.__module__",
}
of_stages = pytest.mark.xdist_group("stages of imports")


def _loaded(*programs):
    """Modules in a fresh process after each of these programs, which it runs one after the other."""
    say = "\nimport sys; print(*sys.modules, flush=True)\n"
    program = "".join(one + say for one in programs)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def _packages(modules):
    return {name.partition(".")[0] for name in modules}


@pytest.fixture(scope="module")
def loaded():
    """Modules after each stage in one process. Each stage adds to those before it."""
    return dict(zip(STAGES, _loaded(*STAGES.values()), strict=True))


@pytest.mark.slow
def test_no_worker_module_imports_torch_lightning_or_the_training_side():
    (modules,) = _loaded(WALK)

    assert not _packages(modules) & TRAINING_SIDE


@of_stages
@pytest.mark.slow
def test_the_package_and_its_command_import_nothing_heavy(loaded):
    assert not _packages(loaded["command"]) & HEAVY


@of_stages
@pytest.mark.slow
def test_public_names_of_the_training_process_load_neither_torch_nor_mlflow(loaded):
    assert _packages(loaded["training"]) & HEAVY == {"numpy"}


@of_stages
@pytest.mark.slow
def test_pure_functions_import_only_numpy_and_pillow(loaded):
    assert _packages(loaded["pure"]) & HEAVY == {"numpy", "PIL"}


@of_stages
@pytest.mark.slow
def test_names_for_reading_load_neither_torch_nor_mlflow_nor_matplotlib(loaded):
    assert not _packages(loaded["reading"]) & {*TRAINING_SIDE, "mlflow", "matplotlib", "pandas"}


@of_stages
@pytest.mark.slow
def test_a_plain_loop_loads_neither_lightning_nor_mlflow(loaded):
    assert "torch" in loaded["plain loop"]
    assert not _packages(loaded["plain loop"]) & {"lightning", "mlflow", "matplotlib"}


@of_stages
@pytest.mark.slow
def test_the_callback_loads_without_mlflow_and_the_logger_on_first_use(loaded):
    assert "mlflow" not in loaded["callback"]
    assert {"mlflow", "recon_worker.lightning.mlflow_logger"} <= loaded["logger"]
    with pytest.raises(AttributeError, match=r"module 'recon_worker.lightning' has no attribute 'Absent'"):
        _ = import_module("recon_worker.lightning").Absent


@pytest.mark.parametrize("name", recon_worker.__all__)
def test_each_public_name_comes_from_the_module_that_defines_it(name):
    public = getattr(recon_worker, name)

    assert public is getattr(import_module(public.__module__), name)
    assert name in dir(recon_worker)


def test_the_table_of_modules_holds_the_public_names_and_no_others():
    assert sorted(name for names in recon_worker._MODULES.values() for name in names) == sorted(recon_worker.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'recon_worker' has no attribute 'Absent'"):
        _ = recon_worker.Absent
