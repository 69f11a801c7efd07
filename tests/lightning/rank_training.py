"""A training on as many ranks as torchrun starts: `torchrun --nproc-per-node 2 -m tests.lightning.rank_training FILE`.

FILE: JSON of a list of `Case`s, trained one after the other. Each rank R writes `NAME.rankR.json` next to it.
"""

import json
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.capture.copying import Copier
from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from recon_worker.settings import WorkerSettings
from tests.lightning.foreign import ForeignDataset, ForeignModule, Stream, loader


@dataclass(frozen=True)
class Case:
    """A training."""

    name: str
    uri: str
    artifacts: str
    length: int = 23
    """Number of validation samples: not a multiple of ranks or batches."""
    epochs: int = 2
    returns_predictions: bool = True
    supervised: bool = False
    logs: bool = True
    baseline: bool = True
    worker: bool = False
    learning_rate: float = 0.0
    """0: the weights stay, so that they do not depend on the number of ranks."""
    limit_val_batches: int | None = None
    use_distributed_sampler: bool = True
    validates: bool = True
    streams: bool = False
    """The validation set has no index."""
    fails_on_rank: int = -1
    """Rank on which copies fail in epoch 1."""
    small: bool = False
    """Whether the network predicts objects of another size than the patches of the dataset."""
    strict: bool = False
    one_logger: bool = False
    """Whether only rank zero has a logger."""
    dies_on_rank: int = -1
    """Rank that dies in epoch 2."""
    dies_by: str = "exception"
    """Or "SIGKILL"."""


class Module(ForeignModule):
    """A foreign module with the learning rate and the prediction size of the case."""

    learning_rate = 0.0
    small = False

    def forward(self, *inputs):
        first, *predictions = super().forward(*inputs)
        return first, *(one[..., ::2, ::2] if self.small else one for one in predictions)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Dies(Callback):
    """Kills one rank in epoch 2."""

    def __init__(self, rank, how):
        self._rank, self._how = rank, how

    def on_train_batch_start(self, trainer, *args):
        if trainer.current_epoch == 1 and trainer.global_rank == self._rank:
            print("this rank dies", file=sys.stderr, flush=True)
            if self._how == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this rank dies")


class BrokenCopier(Copier):
    """Fails to copy."""

    def finish(self, arrays, targets, fixed, stitched):
        raise MemoryError("nothing can be copied")


class FailingCapture(PtychoReconLoggingCallback):
    """Fails to copy in epoch 1 on one rank."""

    fails_on_rank = -1

    def on_validation_start(self, trainer, pl_module):
        if self._run is not None and trainer.global_rank == self.fails_on_rank:
            self._run.copier = (BrokenCopier if trainer.current_epoch == 0 else Copier)(pl_module.device)
            self._run.captures.clear()  # they hold their copier
        super().on_validation_start(trainer, pl_module)


def train(case: Case, folder: Path) -> None:
    """Train a case; each rank writes its results even if the training raises."""
    torch.manual_seed(7)
    module = Module(returns_predictions=case.returns_predictions, supervised=case.supervised)
    module.learning_rate, module.small = case.learning_rate, case.small
    logger = QueuedMLFlowLogger(
        experiment_name=case.artifacts, tracking_uri=case.uri, artifact_location=Path(case.artifacts).as_uri()
    )
    callback = FailingCapture(
        1, num_patches=3, log_stitch=True, baseline=case.baseline, arrays="npz", strict=case.strict,
        worker=WorkerSettings(spool_dir=folder / "spool") if case.worker else None,
    )  # fmt: skip
    callback.fails_on_rank, rank = case.fails_on_rank, int(os.environ.get("RANK", 0))
    trainer = Trainer(
        max_epochs=case.epochs, logger=False if case.one_logger and rank else logger, accelerator="cpu", **_ranks(),
        callbacks=[*([callback] if case.logs else []), Dies(case.dies_on_rank, case.dies_by)],
        limit_val_batches=case.limit_val_batches, use_distributed_sampler=case.use_distributed_sampler,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = Stream(case.length) if case.streams else ForeignDataset(case.length)
    validation = loader(data) if case.validates else None
    try:
        trainer.fit(module, loader(ForeignDataset(16), shuffle=True), validation)
    finally:
        found = {
            "losses": module.losses,
            "weights": [p.detach().double().sum().item() for p in module.parameters()],
            "errors": callback.errors,
            "forward_passes": sum(count for _, count in module.calls),
            "random": torch.rand(1).item(),
        }
        (folder / f"{case.name}.rank{trainer.global_rank}.json").write_text(json.dumps(found))


def _ranks():
    """Trainer settings for the ranks that torchrun has started, or for this process alone."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return {"devices": 1}
    devices, num_nodes = (int(os.environ[f"{name}_WORLD_SIZE"]) for name in ("LOCAL", "GROUP"))
    return {"devices": devices, "num_nodes": num_nodes, "strategy": "ddp_find_unused_parameters_true"}


def main(plan):
    warnings.simplefilter("ignore")
    path = Path(plan)
    for fields in json.loads(path.read_text()):
        train(Case(**fields), path.parent)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
