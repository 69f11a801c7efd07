"""What programs do beside training: they copy modules, replace loaders, read files in worker processes."""

import copy
import os

import h5py
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import Dataset, Subset

from recon_worker import Predictions, Sample
from recon_worker.lightning import PtychoReconLoggingCallback
from tests.lightning.clients import (
    DIFFRACTION,
    N_SAMPLES,
    POSITIONS,
    TRUTH,
    Container,
    Module,
    PairModule,
    Pairs,
    loader,
)
from tests.lightning.quiet import QUIET
from tests.lightning.test_clients import (
    BATCHES,
    EXTRA_PASS,
    callback_of,
    correlations,
    fit,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


class OwnAdapter:
    def sample(self, item):
        return Sample(diffraction=item["pattern"][None], position_px=item["xy"])

    def arguments(self, items):
        return (torch.stack([coded["input"] for coded in items]),)

    def predictions(self, outputs):
        return Predictions(outputs["a"], outputs["p"])


class DictItems(Pairs):
    def __getitem__(self, number):
        position = torch.from_numpy(POSITIONS[number])
        return {
            "pattern": torch.from_numpy(DIFFRACTION[number]),
            "input": super().__getitem__(number)[0],
            "xy": position,
        }


class DictModule(PairModule):
    def forward(self, x):
        patches = self.oracle.object(x)
        return {"a": patches.abs(), "p": patches.angle()}

    def validation_step(self, batch, batch_idx):
        self(batch["input"])


def test_an_unknown_form_gives_one_message_that_shows_the_adapter_to_write(tracking, caplog):
    trainer = fit(tracking, DictModule(), DictItems(), callback_of(strict=False))

    assert trainer.current_epoch == 2
    (line,) = [record.message for record in caplog.records if "No reconstructions are logged" in record.message]
    assert "a dict with the keys ['input', 'pattern', 'xy']" in line
    assert "def predictions(self, outputs):" in line


class PairOfArrays(OwnAdapter):
    def predictions(self, outputs):
        return outputs["a"].numpy(), outputs["p"].numpy()


class Objects(OwnAdapter):
    def predictions(self, outputs):
        return Predictions(torch.polar(outputs["a"], outputs["p"]), outputs["p"])


@pytest.mark.parametrize("adapter", [OwnAdapter, PairOfArrays])
def test_an_adapter_of_ones_own_serves_any_form(tracking, adapter):
    module = DictModule()

    trainer = fit(tracking, module, DictItems(), callback_of(adapter=adapter(), ground_truth=TRUTH))

    assert module.oracle.calls == 2 * BATCHES
    assert min(correlations(tracking, trainer)) > 0.99


def test_an_adapter_that_returns_complex_objects_costs_pictures_not_the_training(tracking, caplog):
    trainer = fit(tracking, DictModule(), DictItems(), callback_of(adapter=Objects(), strict=False))

    assert trainer.current_epoch == 2
    assert "epoch_02" not in tracking.epoch_folders()
    assert "Training continues." in caplog.text


def test_a_module_that_is_copied_during_validation_carries_no_hook(tracking):
    class Keeps(Callback):
        kept = None

        def on_validation_epoch_end(self, trainer, module):
            self.kept = copy.deepcopy(module)

    keeps = Keeps()
    fit(tracking, Module(), Container(), callback_of(every_n_epochs=1), callbacks=[keeps])

    assert len(keeps.kept._forward_hooks) == 0


class Reloads(Module):
    """Makes a new validation loader in each epoch, by `loaders`."""

    loaders = ()

    def val_dataloader(self):
        return self.loaders[min(self.trainer.current_epoch, len(self.loaders) - 1)]


def fit_reloading(tracking, loaders, callback):
    module = Reloads()
    module.loaders = loaders
    trainer = Trainer(
        max_epochs=2,
        logger=tracking.logger(),
        callbacks=[callback],
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        **QUIET,
    )
    trainer.fit(module, loader(Container(), batch_size=30))
    return module


def test_a_validation_loader_that_is_replaced_shows_no_sample_under_the_name_of_another(tracking, new_tracking, caplog):
    other, scan = new_tracking(), Container()
    order = np.random.default_rng(2).permutation(N_SAMPLES)
    fit_reloading(other, [loader(scan)], callback_of(every_n_epochs=1))

    fit_reloading(tracking, [loader(scan), loader(Subset(scan, order))], callback_of(every_n_epochs=1))

    assert tracking.pictures() == other.pictures()
    assert f"{EXTRA_PASS}, which costs time: which samples are in a validation batch is unknown" in caplog.text


def test_a_validation_loader_with_another_batch_size_needs_no_extra_pass(tracking, new_tracking):
    other, scan = new_tracking(), Container()
    fit_reloading(other, [loader(scan)], callback_of(every_n_epochs=1))

    module = fit_reloading(tracking, [loader(scan), loader(scan, batch_size=20)], callback_of(every_n_epochs=1))

    assert module.oracle.calls == [*BATCHES, 20, 20, 20]
    assert tracking.pictures() == other.pictures()


def test_a_shuffled_validation_set_costs_one_line(tracking, caplog):
    fit(tracking, Module(), Container(), callback_of(every_n_epochs=1), shuffle=True)

    (line,) = [record.message for record in caplog.records if EXTRA_PASS in record.message]
    assert "Do not shuffle them" in line


class OpensAtFirstAccess(Container):
    """Like a dataset that opens an HDF5 file in each loader's worker: forked processes must not share it."""

    opened_by = None

    def __getitem__(self, number):
        self.opened_by = self.opened_by or os.getpid()
        assert self.opened_by == os.getpid()
        return super().__getitem__(number)


class Augmented(Dataset):
    """Wraps a dataset."""

    def __init__(self, base):
        self.base, self.container = base, base.container

    def __len__(self):
        return len(self.base)

    def __getitem__(self, number):
        return self.base[number]


class Reader:
    """Opens the file of a dataset."""

    opened_by = None

    def open(self):
        self.opened_by = self.opened_by or os.getpid()
        assert self.opened_by == os.getpid()


class ReadsThroughAnother(Container):
    def __init__(self):
        super().__init__()
        self.reader = Reader()

    def __getitem__(self, number):
        self.reader.open()
        return super().__getitem__(number)

    @property
    def opened_by(self):
        return self.reader.opened_by


FILES = {
    "Subset": (OpensAtFirstAccess, lambda scan: Subset(scan, range(N_SAMPLES))),
    "own wrapper": (OpensAtFirstAccess, Augmented),
    "own reader": (ReadsThroughAnother, lambda scan: scan),
}


@pytest.mark.parametrize("how", FILES)
def test_files_that_a_dataset_opens_are_not_shared_with_the_workers_of_its_loaders(tracking, how):
    make, wrap = FILES[how]
    scan = make()
    dataset = wrap(scan)
    trainer = Trainer(
        max_epochs=2,
        logger=tracking.logger(),
        callbacks=[callback_of(every_n_epochs=1)],
        num_sanity_val_steps=0,
        **QUIET,
    )

    trainer.fit(Module(calls=2), *(loader(dataset, num_workers=1) for _ in range(2)))

    assert scan.opened_by is None
    assert min(correlations(tracking, trainer)) > 0.99


class OneOpenFile(Container):
    """Keeps one of its two files open, that of the sample read last."""

    file, path = None, ""

    def __init__(self, folder, opened):
        super().__init__()
        self.paths, self.opened = [folder / "even", folder / "odd"], opened
        for path in self.paths:
            with path.open("wb") as file:
                if opened is np.load:
                    np.savez(file, pattern=0)
                else:
                    h5py.File(file, "w").create_dataset("pattern", data=0)

    def __len__(self):
        return N_SAMPLES - 1

    def __getitem__(self, number):
        if (path := self.paths[number % 2]) != self.path:
            if self.file is not None:
                self.file.close()
            self.file, self.path = self.opened(path), path
        assert self.file["pattern"][()] == 0
        return super().__getitem__(number)


@pytest.mark.parametrize("opened", [h5py.File, np.load], ids=["h5py", "npz"])
def test_a_file_that_a_dataset_closes_to_open_another_is_not_left_closed(tracking, tmp_path, opened):
    module, scan = Module(), OneOpenFile(tmp_path, opened)
    callback = PtychoReconLoggingCallback(1, fixed_indices=[1])
    trainer = Trainer(
        max_epochs=2,
        logger=tracking.logger(),
        callbacks=[callback],
        **QUIET,
    )

    trainer.fit(module, loader(scan, batch_size=30))
    scan.file.close()

    assert trainer.current_epoch == 2
    assert callback.errors == 0
