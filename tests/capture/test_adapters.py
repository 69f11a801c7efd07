"""Forms of items and results, as the adapters read them."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from recon_worker import PtychoPinnAdapter, TupleAdapter
from recon_worker.capture.adapters import adapter_for
from recon_worker.capture.errors import UnusableDataError
from recon_worker.lightning.forward_watch import recognised

AMP, PHASE = torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8)
PATTERN = torch.rand(1, 8, 8)
BOTH = ("phase", "amp")

RESULTS = {
    "channels": torch.cat([PHASE, AMP], dim=1),
    "pair": (PHASE, AMP),
    "images": [PHASE[:, 0], AMP[:, 0]],
    "complex": torch.polar(AMP, PHASE),
    "complex images": torch.polar(AMP, PHASE)[:, 0],
    "diffraction first": (torch.rand(5, 1, 8, 8), AMP, PHASE),
    "mapping": {"amp": AMP, "phase": PHASE},
}


@pytest.mark.parametrize("form", RESULTS)
def test_results_of_every_form_are_read(form):
    found = TupleAdapter(BOTH).predictions(RESULTS[form])

    torch.testing.assert_close(found.amp, AMP)
    torch.testing.assert_close(found.phase, PHASE)
    assert (found.diffraction is not None) == (form == "diffraction first")


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        torch.tensor(0.5),
        (torch.tensor(0.5), torch.tensor(0.1)),
        torch.rand(5, 3, 8, 8),
        torch.rand(5, 8),
        torch.ones(5, 2, 8, 8, dtype=torch.int64),
        {"loss": torch.tensor(1.0)},
        {"amp": AMP},
        (AMP, None, PHASE),
        "text",
        object(),
    ],
)
def test_other_results_are_not_predictions(outputs):
    assert recognised(TupleAdapter(), outputs) is None
    assert recognised(PtychoPinnAdapter(), outputs) is None


def test_an_adapter_that_raises_recognises_nothing():
    class Unpacks:
        def predictions(self, outputs):
            amp, phase = outputs
            return amp, phase

    assert recognised(Unpacks(), torch.tensor(1.0)) is None


ITEMS = {
    "labels": (PATTERN, torch.cat([PHASE[0], AMP[0]])),
    "arrays": (PATTERN.numpy(), torch.cat([PHASE[0], AMP[0]]).numpy()),
    "two labels": (PATTERN[0], PHASE[0], AMP[0]),
    "images": (PATTERN[0], PHASE[0, 0], AMP[0, 0]),
    "complex": (PATTERN, torch.polar(AMP, PHASE)[0]),
    "a number": (PATTERN, torch.cat([PHASE[0], AMP[0]]), 3),
    "more": (PATTERN, PHASE[0], AMP[0], torch.ones(8, 8), "name"),
}


@pytest.mark.parametrize("form", ITEMS)
def test_items_of_every_form_are_read(form):
    sample = TupleAdapter(BOTH).sample(ITEMS[form])

    torch.testing.assert_close(sample.diffraction, PATTERN)
    torch.testing.assert_close(sample.label_amp, AMP[0])
    torch.testing.assert_close(sample.label_phase, PHASE[0])


@pytest.mark.parametrize("label", [PHASE[0], PHASE[0, 0]])
def test_a_phase_alone_has_amplitude_1(label):
    adapter = TupleAdapter(("phase",))

    sample, found = adapter.sample((PATTERN, label)), adapter.predictions(PHASE[:, 0])

    torch.testing.assert_close(sample.label_phase, PHASE[0])
    torch.testing.assert_close(found.phase, PHASE)
    assert (sample.label_amp == 1).all()
    assert (found.amp == 1).all()


def test_labels_of_classes_are_no_ground_truth():
    assert TupleAdapter().sample((PATTERN, torch.tensor(3))).label_amp is None


class Turned(NamedTuple):
    phase: torch.Tensor
    amp: torch.Tensor


class Scattered(NamedTuple):
    amp: torch.Tensor
    phase: torch.Tensor
    diffraction: torch.Tensor


@pytest.mark.parametrize("adapter", [TupleAdapter(), TupleAdapter(("phase", "amp")), PtychoPinnAdapter()])
def test_results_with_names_are_read_by_name(adapter):
    amp, phase, diffraction = (torch.full((2, 1, 8, 8), float(i)) for i in range(3))

    for outputs in (Turned(phase, amp), Scattered(amp, phase, diffraction), SimpleNamespace(phase=phase, amp=amp)):
        found = adapter.predictions(outputs)

        assert (found.amp is amp, found.phase is phase) == (True, True)
        assert found.diffraction is getattr(outputs, "diffraction", None)


def test_diffraction_amplitude_and_phase_may_lack_the_axis_of_patches():
    found = TupleAdapter().predictions(tuple(torch.full((2, 8, 8), float(i)) for i in range(3)))

    assert [one.shape for one in found] == 3 * [(2, 1, 8, 8)]
    assert [one.mean() for one in (found.diffraction, found.amp, found.phase)] == [0, 1, 2]


@pytest.mark.parametrize("channels", [(), ("amp", "amp"), ("amplitude", "phase"), ("phase", "amp", "x")])
def test_wrong_channels_are_refused(channels):
    with pytest.raises(ValueError, match="allowed: "):
        TupleAdapter(channels)


class Named(NamedTuple):
    pattern: torch.Tensor
    patch: torch.Tensor


def test_the_adapter_is_recognised_from_an_item():
    assert isinstance(adapter_for(({"images": PATTERN}, torch.ones(8, 8), 1.0), "Set"), PtychoPinnAdapter)
    assert isinstance(adapter_for(Named(PATTERN, PHASE[0]), "Set"), TupleAdapter)
    assert isinstance(adapter_for([np.zeros((8, 8)), np.zeros((2, 8, 8))], "Set"), TupleAdapter)


@pytest.mark.parametrize("item", [{"x": PATTERN}, PATTERN, (PATTERN,), ("a", "b"), None, 3])
def test_an_unknown_item_is_described_and_an_adapter_shown(item):
    with pytest.raises(UnusableDataError, match=r"a sample of Set is a[\s\S]*class MyAdapter:[\s\S]*def predictions"):
        adapter_for(item, "Set")


def test_channels_of_a_sample_survive_an_input_with_more():
    fields = {"images": torch.rand(3, 8, 8), "observed_images": PATTERN, "coords_relative": torch.zeros(1, 1, 2)}
    fields |= {"rms_input_scale": torch.tensor(2.0), "probe_normalization": torch.tensor([4.0])}
    item = (fields, torch.ones(8, 8, dtype=torch.complex64), 1.0)

    images, _, probe, scale, output_scale, ids = PtychoPinnAdapter().arguments([item, item])

    assert images.shape == (2, 3, 8, 8)
    assert probe.shape == (2, 1, 1, 8, 8)
    assert (scale.flatten().tolist(), output_scale.flatten().tolist()) == ([2, 2], [0.25, 0.25])
    assert ids.tolist() == [0, 0]
    assert PtychoPinnAdapter().sample(item).diffraction.shape == (1, 8, 8)


def test_without_observed_images_the_patches_of_a_sample_are_counted_by_their_positions():
    fields = {"images": torch.rand(3, 8, 8), "coords_relative": torch.zeros(1, 1, 2)}

    assert PtychoPinnAdapter().sample((fields, torch.ones(8, 8), 1.0)).diffraction.shape == (1, 8, 8)
