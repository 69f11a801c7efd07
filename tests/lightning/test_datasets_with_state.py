"""State of datasets and modules that the logging must not change: samples read last, random generators."""

import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recon_worker.capture.placement.unchanged import left_unchanged
from recon_worker.lightning import PtychoReconLoggingCallback
from tests.lightning.fitting import fit, seeded_module
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]

N_SAMPLES = 13


class Blocks(ForeignDataset):
    """Reads its samples in two blocks, even and odd ones, into memory that it keeps."""

    block = -1

    def __init__(self):
        super().__init__(N_SAMPLES)

    def __getitem__(self, i):
        if i % 2 != self.block:
            self.block = i % 2
            self.keep(list(self.images[i % 2 :: 2].numpy()))
        fields, *rest = super().__getitem__(i)
        return fields | {"images": torch.from_numpy(np.array(self.kept(i // 2)))}, *rest


class InList(Blocks):
    def __init__(self):
        super().__init__()
        self.memory = []

    def keep(self, samples):
        self.memory[:] = samples

    def kept(self, row):
        return self.memory[row]


class InDict(Blocks):
    def __init__(self):
        super().__init__()
        self.memory = {}

    def keep(self, samples):
        self.memory.update(enumerate(samples))

    def kept(self, row):
        return self.memory[row]


class InBytes(Blocks):
    def __init__(self):
        super().__init__()
        self.memory = bytearray()

    def keep(self, samples):
        self.memory[:] = np.stack(samples).tobytes()

    def kept(self, row):
        return np.frombuffer(bytes(self.memory), np.float32).reshape(-1, *self.images.shape[1:])[row]


class Reader:
    def __init__(self, memory):
        self.memory = memory


class InReader(Blocks):
    """The reader has the memory, the dataset the number of the block in it."""

    def __init__(self):
        super().__init__()
        self.reader = Reader(np.zeros((N_SAMPLES, *self.images.shape[1:]), np.float32))

    def keep(self, samples):
        self.reader.memory[: len(samples)] = samples

    def kept(self, row):
        return self.reader.memory[row]


class InMappedFile(InReader):
    def __init__(self, path):
        super().__init__()
        self.reader.memory = np.memmap(path, np.float32, "w+", shape=self.reader.memory.shape)


class Noise:
    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, image):
        return image + self.generator.random()


class Transformed(ForeignDataset):
    def __init__(self, transform):
        super().__init__(N_SAMPLES)
        self.transform = transform

    def __getitem__(self, i):
        fields, *rest = super().__getitem__(i)
        return fields | {"images": self.transform(fields["images"]).float()}, *rest


class Composed:
    def __init__(self, *transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


OF_ALL = np.random.default_rng(0)


class OfModule(ForeignDataset):
    """Draws from a generator of its Python module."""

    def __init__(self):
        super().__init__(N_SAMPLES)
        OF_ALL.bit_generator.state = np.random.default_rng(2).bit_generator.state

    def __getitem__(self, i):
        fields, *rest = super().__getitem__(i)
        return fields | {"images": fields["images"] + OF_ALL.random()}, *rest


def closure():
    generator = np.random.default_rng(3)
    return lambda image: image + generator.random()


def added(draw, image):
    return image + draw()


def setattr_of(dataset, name, value):
    setattr(dataset, name, value)
    return dataset


def bound(generator, image):
    return image + generator.random()


DATASETS = {
    "list": InList,
    "dict": InDict,
    "bytearray": InBytes,
    "reader": InReader,
    "transforms": lambda: Transformed(Composed(Noise(0), Noise(1))),
    "closure": lambda: Transformed(closure()),
    "partial": lambda: Transformed(partial(bound, np.random.default_rng(4))),
    "bound method": lambda: Transformed(partial(added, np.random.default_rng(5).random)),
    "proxy of an object that is gone": lambda: setattr_of(Transformed(Noise(6)), "parent", weakref.proxy(Noise(7))),
    "generator of the module": OfModule,
}


def test_a_large_buffer_of_any_array_type_is_seen_to_be_overwritten():
    """The number of a block belongs to the buffer that holds it."""
    dataset = SimpleNamespace(block=0, buffer=np.zeros(10_000_000).view(np.recarray))

    with left_unchanged(dataset):
        dataset.block, dataset.buffer[:] = 7, 7

    assert dataset.block == 7


class NoisyModule(ForeignModule):
    """Draws from a generator of its Python module, also when it is evaluated."""

    def forward(self, x, *more):
        return super().forward(x + OF_ALL.random(), *more)


def test_training_is_bit_identical_if_the_module_draws_from_a_generator_of_its_python_module(tracking):
    def losses(callback, logger):
        torch.manual_seed(3)
        OF_ALL.bit_generator.state = np.random.default_rng(2).bit_generator.state
        return fit(tracking, callback, module=NoisyModule(), val=None, logger=logger)[0].losses

    plain = losses(None, False)
    logged = losses(PtychoReconLoggingCallback(1, num_patches=2, strict=True), None)

    assert logged == plain


@pytest.mark.parametrize("name", [*DATASETS, "mapped file"])
def test_training_is_bit_identical(tracking, tmp_path, name):
    make = DATASETS.get(name, lambda: InMappedFile(tmp_path / "memory"))

    def losses(callback, logger):
        module = seeded_module(False)
        return fit(tracking, callback, module=module, train=loader(make()), val=None, logger=logger)[0].losses

    plain = losses(None, False)
    logged = losses(PtychoReconLoggingCallback(1, fixed_indices=[1], strict=True), None)

    assert logged == plain
