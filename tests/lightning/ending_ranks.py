"""One of two ranks, for test_ending.py: prints a line when rank zero validates while rank one already waits for it."""

import sys
import time
import warnings

from lightning.pytorch import Trainer

from ptycho_torch.workflows.ending import EndTogether
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader
from tests.lightning.quiet import QUIET


class Module(ForeignModule):
    def validation_step(self, batch, batch_idx):
        if self.global_rank == 0:
            time.sleep(1.0)
            print("validates", flush=True)
            time.sleep(1.0)
        self.log("val_loss", 0.0, sync_dist=True, batch_size=5)


def main(folder):
    warnings.simplefilter("ignore")
    trainer = Trainer(
        max_epochs=1000,
        devices=2,
        strategy="ddp",
        logger=False,
        callbacks=[EndTogether()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **QUIET,
    )
    trainer.fit(Module(), loader(ForeignDataset(length=10)), loader(ForeignDataset(length=10)))


if __name__ == "__main__":
    main(sys.argv[1])
