"""Positions and true objects are found in the innermost datasets, for the samples of the outermost one."""

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Subset

from tests.capture.known_scans import (
    CONTAINERS,
    Scan,
    Wrapper,
    assert_true_patches,
    global_offsets,
    place,
    stitched_correlations,
)
from tests.reconstruction.known_objects import smooth_object

ORDER = np.random.default_rng(5).permutation(120)[:90].tolist()
NESTED = {
    "subset": lambda scan: Subset(scan, ORDER),
    "negative indices": lambda scan: Subset(scan, [-1 - i for i in ORDER]),
    "wrapper": Wrapper,
    "subset of a wrapper": lambda scan: Subset(Wrapper(scan), ORDER),
    "wrapped subset of a concatenation": lambda scan: Wrapper(
        Subset(ConcatDataset([Subset(scan, range(60)), Wrapper(Subset(scan, range(60, 120)))]), ORDER)
    ),
}


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("container", CONTAINERS)
def test_nested_datasets_are_looked_through(container, nested):
    dataset = NESTED[nested](CONTAINERS[container](Scan()))

    placement = place(dataset, count=80)

    assert stitched_correlations(placement, dataset)[0] > 0.99
    assert_true_patches(placement, dataset, [0, 79, len(dataset) - 1])


def test_each_combined_scan_has_its_own_object():
    other = smooth_object((110, 120), seed=9)
    scans = [global_offsets(Scan(60)), global_offsets(Scan(60, seed=2, truth=other), truth=other)]
    dataset = Subset(ConcatDataset(scans), np.random.default_rng(0).permutation(120))

    placement = place(dataset)

    assert placement.geometry.n_objects == 2
    assert min(stitched_correlations(placement, dataset)) > 0.99
    assert_true_patches(placement, dataset, range(0, 120, 17))


class Forwarding(Wrapper):
    """Takes unknown attributes from the dataset inside."""

    def __getattr__(self, name):
        return getattr(self.__dict__["dataset"], name)


class Reordered(Wrapper):
    """A subset by another name."""

    def __init__(self, dataset, indices):
        super().__init__(dataset)
        self.indices = np.array(indices)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        return self.dataset[self.indices[i]]


@pytest.mark.parametrize(
    "nested",
    [
        Forwarding,
        lambda scan: Forwarding(Subset(scan, ORDER)),
        lambda scan: Forwarding(Forwarding(Reordered(Forwarding(scan), np.random.default_rng(7).permutation(120)))),
    ],
)
def test_wrappers_that_forward_attributes_do_not_apply_indices_twice(nested):
    dataset = nested(global_offsets(Scan()))

    placement = place(dataset, count=80)

    assert stitched_correlations(placement, dataset)[0] > 0.99


def test_a_dataset_that_contains_itself_has_no_positions():
    dataset = Wrapper(Scan())
    dataset.dataset.dataset = dataset.dataset

    assert place(dataset).geometry is None
