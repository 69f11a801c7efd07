"""Wrong or unusual data in logging leads to a reported skip or a correct picture; the training continues.

tests/ptycho_torch covers the content of files.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import Failure
from tests.lightning.fitting import fit
from tests.lightning.foreign import ForeignDataset, loader
from tests.samples import fill, layout_of, make_scan, snapshot

pytestmark = pytest.mark.timeout(120)


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


def test_a_position_that_is_not_a_number_costs_the_stitched_pictures_only(tracking, caplog):
    data = ForeignDataset(12)
    data.centres[2] = float("nan")

    fit(
        tracking, PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, strict=True), epochs=1, val=loader(data)
    )

    assert "Stitched pictures are skipped: 1 samples have a position that is not finite (first: 2)" in caplog.text
    assert not any("stitched" in name for name in tracking.files())
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()


def test_an_empty_validation_set_is_replaced_by_the_training_set_with_a_line(tracking, caplog):
    empty = torch.utils.data.DataLoader(torch.utils.data.Subset(ForeignDataset(4), []), batch_size=2)

    _, trainer = fit(tracking, PtychoReconLoggingCallback(1, num_patches=1, strict=True), epochs=1, val=empty)

    assert trainer.current_epoch == 1
    assert "The validation set cannot be logged: the Subset has no samples. Reconstructions" in caplog.text
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()


def test_labels_of_another_shape_cost_the_comparison_only(tracking, caplog):
    data = ForeignDataset(12)
    data.amp, data.phase = data.amp[..., :5, :7], data.phase[..., :5, :7]

    fit(tracking, PtychoReconLoggingCallback(1, num_patches=1, strict=True), epochs=1, val=loader(data))

    assert "label_amp cannot be used (one has 5 x 7 px, a pattern 16 x 16)" in caplog.text
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()
    assert not any(name.endswith("_gt.png") for name in tracking.files())
