"""Data that is wrong or strange where logging meets it: a named skip or a right picture, and the training goes on.

What files may hold is tested in tests/unit/test_npz.py, test_datamodule.py and test_metadata.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.artifacts import Failure, render
from recon_worker.history import History
from tests.lightning.foreign import ForeignDataset, loader
from tests.lightning.test_recon_logging import fit
from tests.process.samples import fill, layout_of, make_scan, snapshot

pytestmark = pytest.mark.timeout(60)


def rendered(scan):
    layout = layout_of(scan)
    one = snapshot(layout.allocate(), 1)
    fill(one.arrays, 1)
    return list(render(scan, one, History()))


@pytest.mark.parametrize("n_samples", [1, 30])
def test_positions_that_are_all_the_same_give_a_picture_of_one_patch(n_samples):
    scan = make_scan(n_samples, 1, truth=False)
    same = np.full_like(scan.geometry.positions_px, 20.0)

    made = rendered(replace(scan, geometry=replace(scan.geometry, positions_px=same)))

    assert not [one for one in made if isinstance(one, Failure)]
    assert "epoch_01/stitched/amp_pred.png" in {one.path for one in made}


def test_a_position_that_is_not_a_number_costs_the_stitched_pictures_only():
    scan = make_scan(6, 1, truth=False)
    broken = scan.geometry.positions_px.copy()
    broken[2] = np.nan

    made = rendered(replace(scan, geometry=replace(scan.geometry, positions_px=broken)))

    failures = [one for one in made if isinstance(one, Failure)]
    assert {one.path.split("/")[1] for one in failures} == {"stitched"}
    assert "epoch_01/patch_00/amp_pred.png" in {one.path for one in made}


def test_an_empty_validation_set_is_replaced_by_the_training_set_with_a_line(tracking, caplog):
    empty = torch.utils.data.DataLoader(torch.utils.data.Subset(ForeignDataset(4), []), batch_size=2)

    _, trainer = fit(tracking, PtychoReconLoggingCallback(1, num_patches=1, strict=True), epochs=1, val=empty)

    assert trainer.current_epoch == 1
    assert "There is no validation set" in caplog.text
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()


def test_labels_of_another_shape_cost_the_comparison_and_not_the_training(tracking, caplog):
    data = ForeignDataset(12)
    data.amp, data.phase = data.amp[..., :5, :7], data.phase[..., :5, :7]
    callback = PtychoReconLoggingCallback(1, num_patches=1)

    _, trainer = fit(tracking, callback, epochs=1, val=loader(data))

    assert trainer.current_epoch == 1
    assert "label" in caplog.text
