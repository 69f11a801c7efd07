"""Whatever a dataset holds under the names that are read, finding positions and truth never raises."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from tests.capture.known_scans import TRUTH, Scan, global_offsets, place


class Raising:
    """Raises whatever is done with it."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")

    def __array__(self, *args, **kwargs):
        raise OSError("not read")


class LazyContainer:
    """A new container at each access."""

    @property
    def container(self):
        return {"global_offsets": self.mean_px[:, None, :, None], "YY_full": TRUTH}


class LazyScan(LazyContainer, Scan):
    pass


NAMES = (
    "global_offsets",
    "coords_offsets",
    "coords_relative",
    "YY_full",
    "objectGuess",
    "norm_Y_I",
    "Y_phi",
    "metadata",
)
ODD = {
    "text": "unknown",
    "bytes": b"unknown",
    "nothing": np.empty((0, 2)),
    "ragged": [[1, 2], [3]],
    "objects": np.array([None, {}], object),
    "not finite": np.full((30, 1, 2, 1), np.inf),
    "huge": np.full((30, 1, 2, 1), 1e300),
    "complex": np.full((30, 1, 2, 1), 1j),
    "meta tensor": torch.empty(30, 1, 2, 1, device="meta"),
    "sparse tensor": torch.eye(120).to_sparse(),
    "bfloat16 tensor": torch.ones(30, 2, dtype=torch.bfloat16),
    "raising": Raising(),
    "class": Raising,
    "mapping": {"outer_offset_test": Raising(), "nimgs_test": np.ones(3)},
    "number": -7,
    "namespace": SimpleNamespace(),
}


@pytest.mark.parametrize("name", NAMES)
def test_odd_entries_of_a_container_never_raise(name):
    for value in ODD.values():
        scan = global_offsets(Scan(30))
        setattr(scan.container, name, value)
        if name == "coords_offsets":
            del scan.container.global_offsets

        placement = place(Subset(scan, range(20)))

        assert (placement.geometry is None) == (placement.skip_reason != "")
        placement.true_patch(19)


@pytest.mark.parametrize(
    "name", ["container", "metadata", "dataset", "indices", "ground_truth", "geometry_skip_reason"]
)
def test_odd_attributes_of_a_dataset_never_raise(name):
    for value in ODD.values():
        scan = Scan(30)
        setattr(scan, name, value)

        placement = place(scan)

        assert placement.geometry is None
        assert placement.skip_reason


@pytest.mark.parametrize("item", [lambda i: 1 / 0, lambda i: None if i else Scan(1).item_position(0), lambda i: "here"])
def test_odd_items_are_a_reason(item):
    placement = place(Scan(), item_position=item)

    assert placement.geometry is None
    assert placement.skip_reason


def test_a_container_that_is_built_at_each_access_is_one_scan():
    scan = LazyScan()

    placement = place(Subset(Subset(scan, range(120)), range(100)))

    assert placement.geometry.n_objects == 1
    assert placement.ground_truth[0] is not None


@pytest.mark.parametrize(("name", "where"), [("global_offsets", "between samples"), ("coords_relative", "within a")])
def test_each_part_of_the_positions_in_metres_is_noticed(name, where):
    scan = global_offsets(Scan(channels=4))
    setattr(scan.container, name, getattr(scan.container, name) * 1e-8)

    placement = place(scan)

    assert placement.geometry is None
    assert "less than one pixel" in placement.skip_reason
    assert where in placement.skip_reason


def test_repeated_exposures_of_one_group_are_no_other_unit():
    scan = global_offsets(Scan(channels=4))
    scan.container.global_offsets[:] = scan.container.global_offsets[0]
    scan.container.coords_relative[:] = scan.container.coords_relative[0]

    assert place(scan).geometry is not None
