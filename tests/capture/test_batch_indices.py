"""Indices of a loader's batches, compared with the samples that it yields."""

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler, SubsetRandomSampler, TensorDataset

from recon_worker.capture.plan import batch_indices

RANKS = 4


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("length", [1, 8, 10, 23])
def test_the_known_indices_of_a_distributed_loader_are_its_samples_without_padding(length, drop_last):
    dataset, said = TensorDataset(torch.arange(length)), []
    for rank in range(RANKS):
        sampler = DistributedSampler(dataset, RANKS, rank, shuffle=False, drop_last=drop_last)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler)
        batches = [batch.tolist() for (batch,) in loader]
        indices = [[*one] for one in batch_indices(loader, rank, RANKS)]
        assert [batch[: len(one)] for batch, one in zip(batches, indices, strict=True)] == indices
        said += [index for one in indices for index in one]

    assert sorted(said) == [*range(length - length % RANKS if drop_last else length)]


def test_a_plain_loader_goes_through_the_dataset():
    loader = DataLoader(TensorDataset(torch.arange(5)), batch_size=2)

    assert [[*one] for one in batch_indices(loader)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("wrapped", [SubsetRandomSampler([3, 1]), SequentialSampler(range(4))])
def test_the_indices_of_a_sampler_with_another_order_are_unknown(wrapped):
    """Lightning wraps it in a class that inherits from the distributed sampler."""
    sampler = DistributedSamplerWrapper(wrapped, num_replicas=2, rank=0, shuffle=False)
    loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=1, sampler=sampler)

    assert batch_indices(loader, 0, 2) == []


class _Reordering(DataLoader):
    def __iter__(self):
        return reversed(list(super().__iter__()))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TensorDataset(torch.arange(8)), num_workers=2, in_order=False),
        _Reordering(TensorDataset(torch.arange(8))),
    ],
    ids=["workers", "class"],
)
def test_the_indices_of_a_loader_that_may_reorder_batches_are_unknown(loader):
    assert batch_indices(loader) == []
