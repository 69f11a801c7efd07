"""The network's shapes, ranges, supports and size, and the module's two ways to predict."""

import math

import numpy as np
import pytest
import torch

from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.model.network import ObjectNetwork
from ptycho_torch.model.physics import diffraction_amplitude
from tests.paths import REFERENCE, read_npz


def _inputs(n_px=64, channels=1, batch=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, channels, n_px, n_px, generator=generator)
    positions = torch.rand(batch, channels, 1, 2, generator=generator)
    probe = torch.randn(batch, channels, 1, n_px, n_px, dtype=torch.complex64, generator=generator)
    return images, positions, probe, torch.full((batch, 1, 1, 1), 0.5)


@pytest.mark.parametrize(("n_px", "million"), [(64, 2.34), (128, 4.73)])
def test_size_is_that_of_the_published_network(n_px, million):
    parameters = sum(p.numel() for p in ObjectNetwork(n_px, 1, 2, probe_big=False).parameters())

    assert parameters / 1e6 == pytest.approx(million, abs=0.01)


@pytest.mark.parametrize("n_px", [64, 128, 256])
def test_amplitude_and_phase_stay_in_their_ranges_at_every_patch_side(n_px):
    amp, phase = ObjectNetwork(n_px, 1, 1, probe_big=False)(torch.rand(1, 1, n_px, n_px) * 100)

    assert amp.shape == phase.shape == (1, 1, n_px, n_px)
    assert 0 <= amp.min() <= amp.max() <= 1
    assert phase.abs().max() <= math.pi


def test_without_probe_big_the_border_is_exactly_zero():
    amp, phase = ObjectNetwork(64, 1, 1, probe_big=False)(torch.rand(1, 1, 64, 64))

    centre = torch.zeros(64, 64, dtype=torch.bool)
    centre[16:48, 16:48] = True
    assert (amp[0, 0][~centre] == 0).all()
    assert (phase[0, 0][~centre] == 0).all()
    assert (amp[0, 0][centre] != 0).all()


def test_with_probe_big_the_border_is_predicted_and_the_centre_is_not_touched_by_it():
    network = ObjectNetwork(64, 1, 1, probe_big=True)
    x = torch.rand(1, 1, 64, 64)
    before, _ = network(x)
    with torch.no_grad():
        network.amplitude.border[1].bias += 1.0

    after, _ = network(x)

    assert torch.equal(before[..., 16:48, 16:48], after[..., 16:48, 16:48])
    assert (before[..., :16, :] != after[..., :16, :]).all()


def test_predicted_diffraction_agrees_with_the_reference():
    ref = {k: torch.from_numpy(v) for k, v in read_npz(REFERENCE / "forward_gs1_n64.npz").items() if v.ndim}
    module = PtychoLightningModule(n_px=64, n_filters_scale=1)
    module.network.forward = lambda x: (ref["pred_amp_obj"], ref["pred_phase_obj"])
    one = torch.ones(1, 1, 1, 1)

    pred, _, _ = module(torch.zeros(1, 1, 64, 64), ref["coords_relative"], ref["probe"][None, None, None], one, one)

    torch.testing.assert_close(pred, ref["pred_diff"], rtol=1e-4, atol=1e-5)


def test_output_scale_undoes_the_input_scale():
    module = PtychoLightningModule(n_px=64, n_filters_scale=1)
    images, positions, probe, scale = _inputs()

    pred, amp, phase = module(images, positions, probe, scale, scale)

    patches = torch.polar(torch.ones_like(amp), phase) * amp
    torch.testing.assert_close(pred * 0.5, diffraction_amplitude(patches[:, :, None] * probe / 4))


def test_supervised_forward_returns_the_complex_object_first():
    module = PtychoLightningModule(n_px=64, n_filters_scale=1, model_type="supervised")
    images, positions, probe, scale = _inputs()

    first, amp, _ = module(images, positions, probe, scale, scale)

    assert first.is_complex()
    torch.testing.assert_close(first.abs(), amp.abs())


def test_bfloat16_autocast_keeps_the_physics_in_single_precision():
    module = PtychoLightningModule(n_px=64, n_filters_scale=1)
    images, positions, probe, scale = _inputs()

    with torch.autocast("cpu", torch.bfloat16):
        pred, amp, _ = module(images, positions, probe, scale, scale)

    assert pred.dtype == amp.dtype == torch.float32


def test_bfloat16_autocast_does_not_quantise_the_object():
    torch.manual_seed(0)
    network, x = ObjectNetwork(64, 1, 1, probe_big=True), _inputs()[0]

    single = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x)

    for one, other in zip(single, mixed, strict=True):
        assert other.dtype == torch.float32
        assert other.unique().numel() > 0.9 * one.unique().numel()


def test_the_deviance_of_a_prediction_is_logged_and_does_not_depend_on_the_files_units(monkeypatch):
    module, logged = PtychoLightningModule(n_px=64, n_filters_scale=1), []
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.append((name, value)))
    images, positions, probe, scale = _inputs()
    for unit in (1.0, 10.0):
        fields = {"images": images * unit, "coords_relative": positions}
        fields |= dict.fromkeys(("rms_scaling_constant", "physics_scaling_constant"), scale / unit)
        module.validation_step((fields, probe, scale), 0)

    values = [value for name, value in logged if name == "val_deviance"]
    pred, _, _ = module(images, positions, probe, scale, scale)
    rate, counts = (pred.detach().double().numpy() * 0.5) ** 2, (images.double().numpy() * 0.5) ** 2
    expected = 2 * np.mean(counts * np.log(counts / rate) - counts + rate)
    assert [v.item() for v in values] == pytest.approx([expected, expected], rel=1e-4)


# --- before the first step --------------------------------------------------------------------------------------------


def _patterns(n_px):
    """Patterns with a bright centre, like diffraction, and the mean power of the network's input."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n_px)] * 2, indexing="ij")
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(2, 1, n_px, n_px, generator=generator) + 0.2) * torch.exp(-4 * (x**2 + y**2))
    return patterns * 0.5 / patterns.square().mean().sqrt()


@pytest.mark.parametrize("n_px", [64, 128, 256])
@pytest.mark.parametrize("n_filters_scale", [1, 2])
def test_the_signal_reaches_the_decoders_with_size_one(n_px, n_filters_scale):
    """Regression test: it shrank three- to fourfold in each block of the encoder."""
    torch.manual_seed(0)
    with torch.no_grad():
        features = ObjectNetwork(n_px, 1, n_filters_scale, probe_big=True).encoder(_patterns(n_px))

    assert float(features.square().mean().sqrt()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("n_px", [64, 128, 256])
@pytest.mark.parametrize("seed", range(3))
def test_the_norm_raises_the_share_of_the_signal_that_differs_between_patterns(seed, n_px):
    """Regression test: some seeds needed two epochs to tell patterns apart."""
    torch.manual_seed(seed)
    encoder = ObjectNetwork(n_px, 1, 1, probe_big=True).encoder
    with torch.no_grad():
        before = encoder[:-1](_patterns(n_px))
        after = encoder[-1](before)

    assert _difference(after) > 1.2 * _difference(before)


def _difference(x):
    """Rms difference from the mean over the batch, relative to the rms."""
    return float(((x - x.mean(0)).square().mean() / x.square().mean()).sqrt())


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    network, x = ObjectNetwork(64, 1, 1, probe_big=True), _inputs(batch=3)[0]

    for one, among_others in zip(network(x[:1]), network(x), strict=True):
        torch.testing.assert_close(one[0], among_others[0])


@pytest.mark.parametrize("n_px", [64, 128, 256])
@pytest.mark.parametrize("seed", range(3))
def test_the_object_begins_uniform_and_transparent_and_its_phase_can_move_both_ways(seed, n_px):
    torch.manual_seed(seed)
    with torch.no_grad():
        amp, phase = ObjectNetwork(n_px, 1, 1, probe_big=True)(_patterns(n_px))

    assert float(amp.mean()) == pytest.approx(0.8, abs=0.15)
    assert float(amp.std()) < 0.15
    slope = 1 - (phase / math.pi).square()  # of tanh
    assert float(slope.mean()) > 0.7
