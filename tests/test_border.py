"""The worker's side starts without the training side."""

import subprocess
import sys

WALK = """
import importlib, pkgutil, sys
import recon_worker
for room in pkgutil.iter_modules(recon_worker.__path__, "recon_worker."):
    if room.name.rpartition(".")[2] in {"lightning", "capture", "__main__"}:
        continue
    for module in pkgutil.walk_packages(getattr(importlib.import_module(room.name), "__path__", []), room.name + "."):
        importlib.import_module(module.name)
roots = {name.partition(".")[0] for name in sys.modules}
print(*sorted(roots & {"torch", "lightning", "pytorch_lightning", "ptycho_torch"}))
"""
PURE = """
import sys
import recon_worker.reconstruction.stitching, recon_worker.reconstruction.alignment, recon_worker.pictures.png
print(*sorted({"torch", "matplotlib", "mlflow", "scipy"} & set(sys.modules)))
"""


def _printed(program):
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_no_worker_module_imports_torch_lightning_or_the_training_side():
    assert _printed(WALK) == ""


def test_pure_functions_import_only_numpy_and_pillow():
    assert _printed(PURE) == ""
