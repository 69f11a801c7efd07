"""A training loop without Lightning, on one process or, by `torchrun -m tests.capture.plain_loop plan.json`, several.

The network predicts the truth of the samples that it is given.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from recon_worker import ReconLogger, WorkerSettings
from tests.lightning.clients import DIFFRACTION, PATCHES, POSITIONS, TRUTH, Oracle, Pairs, loader


class Network(Oracle):
    def forward(self, x):
        patches = self.object(x)
        return patches.abs(), patches.angle()


def train(uri, run_id, folder, *, rank=0, size=1, fails_on_rank=None, epochs=2, logs=True, dtype="float32", **settings):
    """Train, and log on all ranks; return weights, losses and the number of logging errors."""
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(5)
    network = Network()
    model = DistributedDataParallel(network) if size > 1 else network
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    recon = ReconLogger(
        tracking_uri=uri,
        run_id=run_id if rank == 0 else None,
        positions=POSITIONS,
        ground_truth=TRUTH,
        every_n_epochs=1,
        num_patches=2,
        worker=None if folder is None else WorkerSettings(spool_dir=Path(folder)),
        **settings,
    )
    with recon:
        for epoch in range(epochs):
            for _, (x, y) in batches(rank, size):
                amp, _ = model(x)
                loss = ((amp - y[:, 1:]) ** 2).mean() + 0.1 * torch.rand(())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            with torch.no_grad(), recon.epoch(epoch + 1, step=10 * (epoch + 1), due=None if logs else False) as shot:
                for indices, (x, _) in batches(rank, size):
                    if fails_on_rank == rank and epoch == 0:
                        shot.add(indices, amp=np.zeros(3), phase=np.zeros(3))
                    amp, phase = network(x)
                    measured = torch.from_numpy(DIFFRACTION)[indices]
                    predicted = measured * (1 + (indices / 100).float())[:, None, None]
                    shot.add(indices, amp=amp, phase=phase, diffraction=predicted, observed=measured)
    return {"weight": network.weight.item(), "losses": losses, "errors": recon.errors}


def batches(rank, size):
    """Every `size`-th sample, shuffled."""
    own = torch.arange(len(PATCHES))[rank::size]
    own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(rank))]
    dataset = Pairs()
    for indices in own.split(16):
        yield indices, next(iter(loader([dataset[int(i)] for i in indices])))


def main(plan):
    settings = json.loads(Path(plan).read_text())
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = train(**settings["train"], rank=rank, size=dist.get_world_size())
    Path(settings["results"], f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
