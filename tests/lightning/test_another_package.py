"""The callback works in another package, which has nothing of this repository but recon_worker."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.paths import REPOSITORY

RECON_LOGGING = "from recon_worker.lightning.callback import PtychoReconLoggingCallback\n"
SCRIPT = """
import sys
from pathlib import Path
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger
from other_torch.workflows.recon_logging import PtychoReconLoggingCallback
from foreign import ForeignDataset, ForeignModule, loader

uri, artifacts = sys.argv[1:]
logger = MLFlowLogger("copied-" + artifacts, tracking_uri=uri, artifact_location=Path(artifacts).as_uri())
callback = PtychoReconLoggingCallback(every_n_epochs=1, num_patches=1, log_stitch=True, strict=True)
trainer = Trainer(
    max_epochs=1, logger=logger, callbacks=[callback], accelerator="cpu", enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
data = loader(ForeignDataset(12))
trainer.fit(ForeignModule(), data, data)
assert not any(name.split(".")[0] == "ptycho_torch" for name in sys.modules)
"""


@pytest.mark.slow
def test_the_callback_serves_another_package(tmp_path, tracking):
    shutil.copytree(REPOSITORY / "recon_worker", tmp_path / "recon_worker")
    shutil.copy(REPOSITORY / "tests" / "lightning" / "foreign.py", tmp_path)
    package = tmp_path / "other_torch" / "workflows"
    package.mkdir(parents=True)
    (package / "recon_logging.py").write_text(RECON_LOGGING)
    command = [sys.executable, "-c", SCRIPT, tracking.uri, str(tracking.artifacts)]

    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True, timeout=100)

    assert {"epoch_01/patch_00/amp_pred.png", "epoch_01/stitched/phase_pred.png"} <= tracking.files()
