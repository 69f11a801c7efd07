"""Networks whose predictions a hook cannot take, or the adapter cannot read: one message, and what can be logged is."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from recon_worker import TupleAdapter
from recon_worker.capture.errors import WrongSettingError
from tests.lightning.clients import POSITIONS, Container, HiddenNetwork, N, PairModule, Pairs
from tests.lightning.test_clients import EXTRA_PASS, PHASE_FIRST, TOLD, callback_of, correlations, fit

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


class Scripted(nn.Module):
    def forward(self, x):
        return x, 0.1 * x


def warnings(caplog):
    return [one for one in caplog.records if one.name.startswith("recon_worker") and one.levelno >= logging.WARNING]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_scripted_submodule_costs_one_line_and_an_extra_pass(tracking, caplog):
    module = HiddenNetwork()
    module.model = torch.jit.script(Scripted())

    fit(tracking, module, Pairs(), callback_of(predictions_from="model", **TOLD))

    (line,) = warnings(caplog)
    assert EXTRA_PASS in line.message
    assert "not supported on ScriptModules" in line.message
    assert "epoch_02/stitched/amp_pred.png" in tracking.files()


def test_a_result_that_the_adapter_does_not_read_gives_one_message_with_an_adapter(tracking, caplog):
    class Unknown(PairModule):
        def forward(self, x):
            return {"object": self.oracle.object(x)}

    callback = callback_of(strict=False, adapter=TupleAdapter(PHASE_FIRST), **TOLD)

    fit(tracking, Unknown(), Pairs(), callback)

    (line,) = warnings(caplog)
    assert "Unknown returns a dict with the keys ['object'], which TupleAdapter does not read" in line.message
    assert "class MyAdapter:" in line.message
    assert not line.exc_info
    assert callback.errors == 1


class Careless(TupleAdapter):
    """Returns predictions in a form of its own."""

    def predictions(self, outputs):
        found = super().predictions(outputs)
        return None if found is None else found._asdict()


def test_an_adapter_that_returns_no_predictions_costs_one_line_and_not_the_training(tracking, caplog):
    callback = callback_of(strict=False, adapter=Careless(PHASE_FIRST), **TOLD)

    trainer = fit(tracking, PairModule(), Pairs(), callback)

    (line,) = warnings(caplog)
    assert "Careless.predictions returns a dict with the keys ['amp', 'diffraction', 'phase']; allowed" in line.message
    assert (trainer.current_epoch, callback.errors) == (2, 1)


class InPlace(PairModule):
    """Changes what `forward` returned before validation ends."""

    def validation_step(self, batch, batch_idx):
        self(batch[0]).mul_(0)


def test_predictions_changed_in_place_are_predicted_again_with_one_line(tracking, new_tracking, caplog):
    other = new_tracking()
    fit(other, PairModule(), Pairs(), callback_of(adapter=TupleAdapter(PHASE_FIRST), **TOLD))

    fit(tracking, InPlace(), Pairs(), callback_of(adapter=TupleAdapter(PHASE_FIRST), **TOLD))

    (line,) = warnings(caplog)
    assert f"{EXTRA_PASS}, which costs time: validation_step changes what InPlace returned in place" in line.message
    name = "epoch_02/stitched/amp_pred.png"
    assert tracking.path(name).read_bytes() == other.path(name).read_bytes()


class Groups(Container):
    """Samples of four patches, of which only the common centre is passed."""

    def __init__(self, relative):
        super().__init__()
        self.container.global_offsets = None
        self.container.coords_relative = relative

    def fields(self, number):
        fields = super().fields(number)
        return fields | {"observed_images": fields["images"].expand(4, N, N)}


def test_centres_of_groups_without_offsets_are_an_error_before_the_first_step(tracking):
    with pytest.raises(WrongSettingError, match=r"1 patches per sample, but the network predicts 4; .*coords_relative"):
        fit(tracking, PairModule(), Groups(None), callback_of(positions=POSITIONS))


def test_centres_of_groups_are_placed_with_the_offsets_of_the_container(tracking):
    class Four(PairModule):
        def forward(self, x):
            return super().forward(x)[0].expand(-1, 4, -1, -1), super().forward(x)[1].expand(-1, 4, -1, -1)

        def validation_step(self, batch, batch_idx):
            phase, amp = self(batch[0]["images"])
            return {"amp": amp, "phase": phase}

    offsets = np.array([[-2, 2, -2, 2], [-2, -2, 2, 2]], np.float32)
    groups = Groups(np.broadcast_to(offsets, (len(POSITIONS), 1, 2, 4)))

    callback = callback_of(positions=POSITIONS)
    fit(tracking, Four(form="pair"), groups, callback)

    assert "epoch_02/stitched/amp_pred.png" in tracking.files()
    assert callback.errors == 0


class Repeats(PairModule):
    """Validates two copies of each sample, one after the other, as for augmentation."""

    def validation_step(self, batch, batch_idx):
        self(batch[0].repeat_interleave(2, dim=0))


def test_more_predictions_than_samples_show_none_under_the_name_of_another(tracking, caplog):
    trainer = fit(tracking, Repeats(), Pairs(), callback_of(adapter=TupleAdapter(PHASE_FIRST), **TOLD))

    (line,) = warnings(caplog)
    assert f"{EXTRA_PASS}, which costs time: validation predicts another number of samples" in line.message
    assert min(correlations(tracking, trainer)) > 0.99


def test_a_network_that_always_predicts_more_samples_costs_one_line(tracking, caplog):
    class Doubles(PairModule):
        def forward(self, x):
            return super().forward(x.repeat_interleave(2, dim=0))

    trainer = fit(tracking, Doubles(), Pairs(), callback_of(strict=False, adapter=TupleAdapter(PHASE_FIRST), **TOLD))

    (line,) = warnings(caplog)
    assert "Doubles returns predictions of 64 samples for 32. Training continues." in line.message
    assert trainer.current_epoch == 2
