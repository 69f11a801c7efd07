"""Physics from object patches to diffraction: far-field propagation, merging of neighbouring patches.

Diffraction is an amplitude, the square root of the intensity. Shapes: B batch, C patches per sample, P probe
modes, N patch side. Offsets are (x, y) = (column, row), pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

PROBE_SCALE = 4.0
"""Divisor of the probe in the exit wave. The datamodule scales the probe to keep the object's amplitude below 1, within
the range of the network's sigmoid."""
_MERGE_EPSILON = 1e-3
_MERGE_FLOOR = 1e-6
_NEIGHBOUR_FLOOR = 1e-3
"""Minimum weight of a pixel, relative to the probe's maximum, so that pixels outside the probe are averaged too."""


def diffraction_amplitude(exit_waves: Tensor) -> Tensor:
    """Compute the far-field amplitude A = sqrt(fftshift(|sum_p FFT2(psi_p)|^2) / N^2), DC in the centre.

    Args:
        exit_waves: (B, C, P, N, N) complex64, object times probe mode.

    Returns:
        (B, C, N, N) float32. Parseval: sum A^2 = sum |sum_p psi_p|^2.
    """
    field = torch.fft.fft2(exit_waves.sum(2))
    intensity = field.real.square() + field.imag.square()
    n_px = exit_waves.shape[-1]
    # sqrt has an infinite slope at 0, which would make the gradients of dark pixels NaN.
    return torch.sqrt(torch.fft.fftshift(intensity, dim=(-2, -1)) / n_px**2 + torch.finfo(intensity.dtype).tiny)


def shift(images: Tensor, offsets_px: Tensor) -> Tensor:
    """Move the content by (+dx columns, +dy rows), bilinear, zero outside.

    Args:
        images: (n, H, W) complex64 or float32.
        offsets_px: (n, 2) float32, (dx, dy), pixels.
    """
    planes = torch.view_as_real(images).movedim(-1, 1) if images.is_complex() else images.unsqueeze(1)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device, dtype=planes.dtype)
    columns = torch.arange(width, device=images.device, dtype=planes.dtype)
    x = (columns[None, :] - offsets_px[:, :1]) * (2 / (width - 1)) - 1
    y = (rows[None, :] - offsets_px[:, 1:]) * (2 / (height - 1)) - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    moved = functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return torch.view_as_complex(moved.movedim(1, -1).contiguous()) if images.is_complex() else moved.squeeze(1)


def merge_group(objects: Tensor, coords_relative_px: Tensor, canvas_px: int, weight: Tensor | None = None) -> Tensor:
    """Merge the C overlapping patches of a sample into one object by weighted averaging.

    merged = sum_c shift(O_c, -off) shift(W, -off) / (sum_c shift(W, -off) + 0.001); PtychoPINN's W is 1 on the central
    N/2 square and 0 around it. Other weights omit the 0.001, which would dim pixels of low weight.

    Args:
        objects: (B, C, N, N) complex64.
        coords_relative_px: (B, C, 1, 2) float32, (x, y), sign -(x - mean).
        canvas_px: M.
        weight: (N, N) float32, W; None: PtychoPINN's.

    Returns:
        (B, M, M) complex64, 0 where no patch contributes.
    """
    batch, channels, n_px, _ = objects.shape
    offsets = -coords_relative_px.reshape(batch * channels, 2)
    epsilon = _MERGE_EPSILON if weight is None else 0
    if weight is None:
        weight = torch.zeros(n_px, n_px, device=objects.device)
        weight[n_px // 4 : n_px - n_px // 4, n_px // 4 : n_px - n_px // 4] = 1
    padding = ((canvas_px - n_px) // 2,) * 4
    placed = shift(functional.pad(objects.reshape(-1, n_px, n_px), padding), offsets)
    weights = shift(functional.pad(weight, padding).expand(batch * channels, -1, -1), offsets)
    shape = (batch, channels, canvas_px, canvas_px)
    total = weights.reshape(shape).sum(1)
    merged = (placed * weights).reshape(shape).sum(1) / (total + epsilon).clamp_min(_MERGE_FLOOR)
    return torch.where(total > _MERGE_FLOOR, merged, torch.zeros_like(merged))


def cut_group(merged: Tensor, coords_relative_px: Tensor, n_px: int) -> Tensor:
    """Cut the patches of a group from their merged object.

    Args:
        merged: (B, M, M) complex64.
        coords_relative_px: (B, C, 1, 2) float32, as in `merge_group`.
        n_px: N.

    Returns:
        (B, C, N, N) complex64.
    """
    batch, channels = coords_relative_px.shape[:2]
    canvas_px = merged.shape[-1]
    copies = merged[:, None].expand(-1, channels, -1, -1).reshape(-1, canvas_px, canvas_px)
    moved = shift(copies, coords_relative_px.reshape(-1, 2))
    start = (canvas_px - n_px) // 2
    return moved[:, start : start + n_px, start : start + n_px].reshape(batch, channels, n_px, n_px)


def average_neighbours(patches: Tensor, positions_px: Tensor, probe_intensity: Tensor) -> Tensor:
    """Replace each object patch with the weighted average of all patches that overlap it.

    Applies `merge_group` with W = |P|^2 / max |P|^2 + 0.001, then `cut_group`. To bound memory, the canvas extends at
    most 2 N beyond a patch at the mean position; patches farther away become 0.

    Args:
        patches: (G, k, N, N) complex64, G groups of k neighbours.
        positions_px: (G, k, 2) float32, centres, (x, y), from any origin.
        probe_intensity: (N, N) float32, sum over modes of |P|^2.

    Returns:
        (G, k, N, N) complex64.
    """
    n_px = patches.shape[-1]
    offsets = positions_px - positions_px.mean(1, keepdim=True).round()  # integer positions need no interpolation
    margin_px = min(math.ceil(float(offsets.abs().max())) + 1, 2 * n_px)
    weight = probe_intensity / probe_intensity.max() + _NEIGHBOUR_FLOOR
    coords_relative = -offsets[:, :, None]
    return cut_group(merge_group(patches, coords_relative, n_px + 2 * margin_px, weight), coords_relative, n_px)
