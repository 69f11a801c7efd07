"""A training with `ReconQuality` on several ranks: `main(FOLDER)`, as one rank of `forked_ranks`.

FOLDER/uri.txt has the address of the MLflow database. Each rank R writes `rankR.json`.
"""

import json
import os
import warnings
from pathlib import Path

import torch.distributed as dist

from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.conftest import Tracking
from tests.lightning.quality_training import logging, train

ERRORS_RAD = [0.5, 0.1, 0.3, 0.2, 0.05, 0.4]
"""The third reconstruction is the first that is no better than an earlier one."""


def main(folder):
    warnings.simplefilter("ignore")
    root = Path(folder)
    tracking = Tracking((root / "uri.txt").read_text(), str(root), root / "artifacts")
    quality = ReconQuality(patience=2, deterministic=True)
    trainer = train(
        tracking, ERRORS_RAD, quality, logs=logging(WorkerSettings(spool_dir=root / "spool")),
        strategy="ddp_find_unused_parameters_true", devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        default_root_dir=root,
    )  # fmt: skip
    found = {"epochs": trainer.current_epoch, "best": quality.best_model_path, "score": quality.best_model_score}
    (root / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
