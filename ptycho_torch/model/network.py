"""The PtychoPINN network: one encoder, an amplitude decoder and a phase decoder.

    diffraction (C, N, N) -> encoder -> (128, 8, 8) -> decoder -> amplitude (C, N, N), sigmoid
                                                    -> decoder -> phase (C, N, N), pi tanh

The decoders predict the object on the central N/2 x N/2, which the probe illuminates. The border of N/4 is zero or,
with `probe_big`, predicted by a second, unbounded branch, for probes that extend beyond the centre.
Attention: CBAM, Woo et al., ECCV 2018 (arXiv:1807.06521). Network: Hoidn et al., Sci. Rep. 13, 22789 (2023).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

_BOTTLENECK_PX = 8
_DEEPEST_FILTERS = 128
"""Filters of the deepest encoder block per unit of n_filters_scale."""
_ATTENTION_REDUCTION = 16
_HEAD_GAIN = 0.03
"""Gain of the last convolution of a head; small, for a uniform initial object far from phase saturation."""
_TRANSPARENT_CENTRE, _TRANSPARENT_BORDER = math.log(4), 1.07
"""Arguments at which sigmoid and SiLU are 0.8, the amplitude of a transparent object in the network's units."""


def encoder_filters(n_px: int, channels: int, n_filters_scale: int) -> list[int]:
    """Return the encoder's channel counts: blocks halve the image down to 8 px and double filters to 128 * scale."""
    depth = int(math.log2(n_px // _BOTTLENECK_PX))
    return [channels, *(n_filters_scale * _DEEPEST_FILTERS // 2**k for k in reversed(range(depth)))]


def decoder_filters(n_px: int, n_filters_scale: int) -> list[int]:
    """Return a decoder's channel counts: from 8 px to N/2, down to 32 * scale filters."""
    ups = int(math.log2(n_px // _BOTTLENECK_PX)) - 1
    deepest = n_filters_scale * _DEEPEST_FILTERS
    return [deepest, *(min(deepest, n_filters_scale * 32 * 2**k) for k in reversed(range(ups)))]


class ChannelAttention(nn.Module):
    """CBAM, section 3.1: a gate per channel from its average and its maximum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _ATTENTION_REDUCTION)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel of (B, C, H, W) by its gate in (0, 2)."""
        average, maximum = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return x * (2 * torch.sigmoid(self.gate(average) + self.gate(maximum)))


class SpatialAttention(nn.Module):
    """CBAM, section 3.2: a gate per pixel from the average and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each pixel of (B, C, H, W) by its gate in (0, 2)."""
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * (2 * torch.sigmoid(self.gate(summary)))


def _double_conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.SiLU()]


def _encoder(filters: Sequence[int]) -> nn.Sequential:
    blocks = [
        nn.Sequential(*_double_conv(a, b), ChannelAttention(b), SpatialAttention(), nn.MaxPool2d(2))
        for a, b in pairwise(filters)
    ]
    # Patterns share most of their signal; much of that is the mean of each channel, which instance normalization
    # (arXiv:1607.08022) removes. It treats each sample alone: predictions do not depend on the rest of a batch.
    return nn.Sequential(*blocks, nn.InstanceNorm2d(filters[-1], affine=True))


class Decoder(nn.Module):
    """Decodes one real quantity of the object: `activation` in the centre, SiLU or zero on the border."""

    def __init__(self, filters: Sequence[int], channels: int, activation: nn.Module, *, probe_big: bool) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Upsample(scale_factor=2), *_double_conv(a, b)) for a, b in pairwise(filters)]
        self.blocks = nn.Sequential(*blocks)
        self.centre = nn.Sequential(
            nn.Conv2d(filters[-1], filters[-1], 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters[-1], channels, 3, padding=1),
            activation,
        )
        self.border = (
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(filters[-1], channels, 3, padding=1), nn.SiLU())
            if probe_big
            else None
        )

    def begin(self, centre: float, border: float) -> None:
        """Initialise for a nearly uniform output: the activations of these two values."""
        for branch, value in ((self.centre, centre), (self.border, border)):
            last = None if branch is None else branch[-2]
            if isinstance(last, nn.Conv2d) and last.bias is not None:
                last.weight.data *= _HEAD_GAIN
                nn.init.constant_(last.bias, value)

    def forward(self, x: Tensor) -> Tensor:
        """Map features, (B, F, 8, 8), to (B, C, N, N) float32: bfloat16 under autocast would quantise the object."""
        features = self.blocks(x)
        hidden = self.centre[:-2](features)
        with torch.autocast(x.device.type, enabled=False):
            return self._object(features.float(), hidden.float())

    def _object(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Apply the last convolutions: features and the centre's hidden layer, (B, F, N/2, N/2), to (B, C, N, N)."""
        centre: Tensor = self.centre[-2:](hidden)
        quarter = centre.shape[-1] // 2
        padded = functional.pad(centre, (quarter,) * 4)
        if self.border is None:
            return padded
        inside = functional.pad(torch.ones_like(centre), (quarter,) * 4)
        border: Tensor = self.border(features)
        return padded + border * (1 - inside)


class PiTanh(nn.Module):
    """pi tanh(x), radians: covers every phase once."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return math.pi * torch.tanh(x)


class ObjectNetwork(nn.Module):
    """Maps diffraction amplitude to object amplitude and phase."""

    def __init__(self, n_px: int, channels: int, n_filters_scale: int, *, probe_big: bool) -> None:
        super().__init__()
        self.encoder = _encoder(encoder_filters(n_px, channels, n_filters_scale))
        up = decoder_filters(n_px, n_filters_scale)
        self.amplitude = Decoder(up, channels, nn.Sigmoid(), probe_big=probe_big)
        self.phase = Decoder(up, channels, PiTanh(), probe_big=probe_big)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as in He et al. 2015 (arXiv:1502.01852), with the variance 2 / fan_in derived there for ReLU.

        Gates start at 1. The object starts uniform and transparent, so that the first steps need not learn its
        brightness: all patterns share it, and a network that learns it first loses the features that tell them apart.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, ChannelAttention | SpatialAttention):
                *_, last = layer.parameters()
                nn.init.zeros_(last)
        self.amplitude.begin(_TRANSPARENT_CENTRE, _TRANSPARENT_BORDER)
        self.phase.begin(0.0, 0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map diffraction to the object.

        Args:
            x: (B, C, N, N) float32 diffraction amplitude with mean total power (N/2)^2.

        Returns:
            Amplitude (B, C, N, N), dimensionless, and phase (B, C, N, N), radians.
        """
        features = self.encoder(x)
        return self.amplitude(features), self.phase(features)
