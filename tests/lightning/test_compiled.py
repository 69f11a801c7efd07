"""Modules that `torch.compile` compiles as one graph: a hook in it would be an error, and end the training."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from recon_worker import TupleAdapter
from tests.lightning.clients import Pairs
from tests.lightning.test_clients import EXTRA_PASS, TOLD, callback_of, fit

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("plain_sheets"),
    pytest.mark.filterwarnings("ignore"),  # of torch and Lightning
]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.layer(x).sigmoid().split(1, dim=1)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0])[0].mean()

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.fixture(autouse=True)
def compiled_anew():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_module_compiled_as_one_graph_trains_and_is_logged_by_an_extra_pass(tracking, caplog):
    module = torch.compile(Module(), backend="eager", fullgraph=True)

    trainer = fit(tracking, module, Pairs(), callback_of(adapter=TupleAdapter(), every_n_epochs=1, **TOLD), epochs=1)

    assert trainer.current_epoch == 1
    assert f"{EXTRA_PASS}, which costs time: validation_step does not call Module, or only past the hook" in caplog.text
    assert "epoch_01/stitched/amp_pred.png" in tracking.files()


def test_a_submodule_compiled_in_place_is_watched_from_outside(tracking, caplog):
    module = Module()
    module.network.compile(backend="eager", fullgraph=True)
    compiled = module.network._compiled_call_impl
    callback = callback_of(adapter=TupleAdapter(), every_n_epochs=1, predictions_from="network", **TOLD)

    trainer = fit(tracking, module, Pairs(), callback, epochs=1)

    assert trainer.current_epoch == 1
    assert EXTRA_PASS not in caplog.text
    assert "epoch_01/stitched/amp_pred.png" in tracking.files()
    assert module.network._compiled_call_impl is compiled
