"""Propagation and group merge against reference arrays and identities."""

import pytest
import torch

from ptycho_torch.model.physics import (
    average_neighbours,
    cut_group,
    diffraction_amplitude,
    merge_group,
    shift,
)
from tests.paths import REFERENCE, read_npz


def _load(name):
    return {key: torch.from_numpy(value) for key, value in read_npz(REFERENCE / f"{name}.npz").items()}


def _assert_close(result, reference):
    torch.testing.assert_close(result, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())


def test_shift_agrees_with_the_reference_for_complex_and_real_images():
    ref = _load("translation")
    offsets = ref["offset_xy"][:, 0]

    _assert_close(shift(ref["img"], offsets), ref["out"][:, 0])
    _assert_close(shift(ref["img"].real.contiguous(), offsets), ref["out_real"][:, 0])


def test_shift_moves_content_right_and_down():
    image = torch.zeros(1, 5, 7)
    image[0, 2, 3] = 1

    moved = shift(image, torch.tensor([[2.0, 1.0]]))

    assert moved[0, 3, 5] == pytest.approx(1)


def test_group_merge_agrees_with_the_reference():
    ref = _load("reassemble_pos_gs2_central")

    merged = merge_group(ref["patches"], ref["offsets_xy"], int(ref["M"]))

    _assert_close(merged, ref["merged"])
    assert torch.equal(merged != 0, ref["mask"])


def test_patches_cut_out_of_the_merged_object_agree_with_the_reference():
    ref = _load("reassemble_pos_gs2_central")

    _assert_close(cut_group(ref["merged"], ref["offsets_xy"], int(ref["N"])), ref["extracted"])


def test_diffraction_of_probe_modes_agrees_with_the_reference():
    ref = _load("physics")

    _assert_close(diffraction_amplitude(ref["obj"][:, :, None] * ref["probe_modes"]), ref["pred_amp"])


def test_diffraction_keeps_the_power_of_the_exit_wave():
    waves = torch.randn(2, 1, 1, 16, 16, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))

    power = diffraction_amplitude(waves).square().sum((1, 2, 3))

    torch.testing.assert_close(power, waves.abs().square().sum((1, 2, 3, 4)))


def test_a_flat_exit_wave_diffracts_into_the_central_pixel_only():
    amplitude = diffraction_amplitude(torch.ones(1, 1, 1, 8, 8, dtype=torch.complex64))

    assert amplitude[0, 0, 4, 4] == pytest.approx(8)
    assert amplitude.sum() == pytest.approx(8)


def test_dark_pixels_have_finite_gradients():
    waves = torch.zeros(1, 1, 1, 8, 8, dtype=torch.complex64, requires_grad=True)

    diffraction_amplitude(waves).sum().backward()

    assert torch.isfinite(torch.view_as_real(waves.grad)).all()


def test_neighbours_that_agree_stay_as_they_are():
    object_ = torch.randn(40, 40, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    corners = [(0, 0), (3, 1), (10, 24), (5, 20)]  # (y, x); the first two overlap, and the last two
    patches = torch.stack([object_[y : y + 16, x : x + 16] for y, x in corners])
    centres = torch.tensor([[x + 8.0, y + 8.0] for y, x in corners])

    probe = torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    merged = average_neighbours(patches[None], centres[None], probe)[0]

    torch.testing.assert_close(merged, patches, atol=1e-3, rtol=0)


def test_groups_of_neighbours_do_not_mix():
    patches = torch.randn(2, 3, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]], [[90.0, 50.0], [93.0, 51.0], [94.0, 52.0]]])

    merged = average_neighbours(patches, centres, torch.ones(8, 8))

    for group in range(2):
        alone = average_neighbours(patches[group][None], centres[group][None], torch.ones(8, 8))[0]
        torch.testing.assert_close(merged[group], alone)


def test_patches_far_apart_take_no_large_canvas():
    centres = torch.tensor(
        [[[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [1e6, 0.0]]]
    )  # a canvas that held all of them would have 10^12 px

    assert not average_neighbours(torch.ones(1, 4, 8, 8, dtype=torch.complex64), centres, torch.ones(8, 8)).any()


def test_neighbours_that_differ_become_their_mean_weighted_by_the_probe():
    patches = torch.stack([torch.full((8, 8), value, dtype=torch.complex64) for value in (1.0, 4.0)])
    probe = torch.ones(8, 8)
    probe[:, :4] = 2  # the second patch lies 4 px to the right: there its bright half meets the first one's dark half

    merged = average_neighbours(patches[None], torch.tensor([[[100.0, 50.0], [104.0, 50.0]]]), probe)[0].real

    torch.testing.assert_close(merged[0, :, :4], torch.ones(8, 4))
    torch.testing.assert_close(merged[0, :, 4:], torch.full((8, 4), (1 * 0.501 + 4 * 1.001) / 1.502))
    torch.testing.assert_close(merged[1, :, :4], merged[0, :, 4:])
    torch.testing.assert_close(merged[1, :, 4:], torch.full((8, 4), 4.0))
