"""Adapters translate dataset items, network arguments and network outputs: one protocol for all networks.

    PtychoPinnAdapter   items (fields, probe, scale), forward(...) -> (diffraction, amp, phase)
    TupleAdapter        items (diffraction, amp, phase) or (diffraction, labels), forward(diffraction) -> object

C is the number of patches of a sample, N the side of a patch in pixels. Networks and datasets are user code: any access
may raise any exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from recon_worker.capture.copying import as_tensor
from recon_worker.capture.errors import UnusableDataError, described
from recon_worker.capture.placement.nesting import member
from recon_worker.system.handler_errors import raise_if_from_signal_handler

Channel = Literal["amp", "phase"]


class Predictions(NamedTuple):
    """Predictions of a network for B samples."""

    amp: Tensor
    """(B, C, N, N) object amplitude."""
    phase: Tensor
    """(B, C, N, N) object phase, radians."""
    diffraction: Tensor | None = None
    """(B, C, N, N) diffraction, in the units of `Sample.diffraction`; None if the network predicts none."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The data that logging reads from one item of a dataset. Tensors may have any floating dtype."""

    diffraction: Tensor | None = None
    """(C, N, N) measured diffraction, DC in the centre: amplitude or, with `intensity`, intensity. None: unknown."""
    intensity: bool = False
    """Whether measured and predicted diffraction are intensities."""
    photon_scale: float | None = None
    """Factor from diffraction amplitude to sqrt(photons); None: unknown."""
    label_amp: Tensor | None = None
    """(C, N, N) true object amplitude, in the network's units; None or all zero: unknown."""
    label_phase: Tensor | None = None
    """(C, N, N) true object phase, radians; None or all zero: unknown."""
    position_px: Tensor | None = None
    """(C, 2) absolute patch centres, (x, y), object pixels; None: unknown."""
    experiment: int = 0
    """Number of the object to which the sample belongs."""
    probe: Tensor | None = None
    """(..., N, N) complex probe, its modes in the leading axes; None: unknown."""


@runtime_checkable
class Adapter(Protocol):
    """Translates the items of a dataset and the outputs of a network for the logging. Implement these three methods.

    For the misfit map, an adapter may also define `observed(batch)`. It returns the measured diffraction of a collated
    validation batch, (B, C, N, N), in the units of `Sample.diffraction`, or None if it is unknown. If it raises, only
    the misfit is missing.
    """

    def sample(self, item: Any) -> Sample:  # noqa: ANN401
        """Read one item of the dataset."""

    def arguments(self, items: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the positional arguments of `forward` for a batch of items, on the CPU.

        Called only if validation does not predict all logged samples itself.
        """

    def predictions(self, outputs: Any) -> Predictions | None:  # noqa: ANN401
        """Read what `forward` or `validation_step` returned; None if these are not predictions."""


def adapter_for(item: object, dataset_name: str) -> Adapter:
    """Recognise the adapter of a dataset from one of its items.

    Raises:
        UnusableDataError: The item has an unknown form.
    """
    if isinstance(item, Sequence) and len(item) >= 2:
        if hasattr(item[0], "keys"):
            return PtychoPinnAdapter()
        if all(isinstance(one, Tensor | np.ndarray) for one in item[:2]):
            return TupleAdapter()
    raise UnusableDataError(
        f"a sample of {dataset_name} is {described(item)}, neither (fields, probe, scale) with named fields nor "
        f"(diffraction, amp, phase) or (diffraction, labels). {HOW_TO_ADAPT}"
    )


HOW_TO_ADAPT = """\
Write an adapter like this one, and pass it as adapter=.
    class MyAdapter:
        def sample(self, item):
            return Sample(diffraction=item["pattern"])
        def arguments(self, items):
            return (torch.stack([item["pattern"] for item in items]),)
        def predictions(self, outputs):
            amp, phase = outputs
            return Predictions(amp, phase)
"""
"""Appended to the error about an unknown form of items."""


class PtychoPinnAdapter:
    """The conventions of PtychoPINN: items `(fields, probe, scale)`, `fields` a mapping or TensorDict of tensors.

    In count-intensity data (fields `measured_intensity` and `rms_input_scale`), diffraction is intensity.
    """

    def sample(self, item: Any) -> Sample:  # noqa: ANN401
        """Read an item. Raises KeyError if it has no diffraction."""
        fields = item[0]
        position, experiment = member(fields, "coords_global"), member(fields, "experiment_id")
        return Sample(
            diffraction=self.observed(item),
            intensity=_is_intensity(set(fields.keys())),
            photon_scale=_photon_scale(fields),
            label_amp=member(fields, "label_amp"),
            label_phase=member(fields, "label_phase"),
            position_px=None if position is None else position.reshape(-1, 2),
            experiment=0 if experiment is None else int(experiment),
            probe=item[1],
        )

    def observed(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Return the measured diffraction of an item or a batch, (..., C, N, N). Raises KeyError if it has none."""
        fields = batch[0]
        names = set(fields.keys())
        intensity = _is_intensity(names)
        found = _field(fields, "observed_images", "measured_intensity" if intensity else "images", "images")
        relative = fields["coords_relative"] if "coords_relative" in names else None
        if not intensity and "observed_images" not in names and relative is not None and relative.shape[-2:] == (1, 2):
            found = found[..., : relative.shape[-3], :, :]  # conditioned inputs have more channels
        return found

    def arguments(self, items: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return images, relative positions, probe (B, C, P, N, N), input and output scale, and experiment ids."""
        fields = [item[0] for item in items]
        images = torch.stack([_field(one, "images") for one in fields])
        scale = torch.stack([_field(one, "rms_scaling_constant", "rms_input_scale").reshape(1, 1, 1) for one in fields])
        output_scale = scale
        if "rms_scaling_constant" not in fields[0].keys() and "probe_normalization" in fields[0].keys():  # noqa: SIM118
            output_scale = 1 / torch.stack([_field(one, "probe_normalization").reshape(1, 1, 1) for one in fields])
        positions = torch.stack([_field(one, "coords_relative") for one in fields])
        return (
            images,
            positions,
            torch.stack([_probe(item[1], positions.shape[1]) for item in items]),
            scale,
            output_scale,
            torch.tensor([int(one["experiment_id"]) if "experiment_id" in one.keys() else 0 for one in fields]),  # noqa: SIM118
        )

    def predictions(self, outputs: Any) -> Predictions | None:  # noqa: ANN401
        """Read a mapping with `amp`, `phase` and, if predicted, `pred_diffraction`, or (diffraction, amp, phase).

        A named tuple or another object with `amp` and `phase` is read by name, whatever their order. A supervised
        network returns its complex object in place of diffraction.
        """
        return _object_and_diffraction(outputs, min_ndim=4)


class TupleAdapter:
    """Items `(diffraction, amp, phase, ...)` or `(diffraction, labels)`; the network takes the diffraction only.

    Labels and predictions of the object may be two tensors, (C, N, N) each or without C; one tensor with `channels`; or
    one complex tensor. A network may also return (diffraction, amp, phase).

    Args:
        channels: Order of amplitude and phase, in pairs of tensors and in channels. ("phase",): phase only, the
            amplitude is 1.
        intensity: Whether diffraction is intensity instead of amplitude.
    """

    def __init__(self, channels: Sequence[Channel] = ("amp", "phase"), *, intensity: bool = False) -> None:
        if not channels or len(set(channels)) != len(channels) or not set(channels) <= {"amp", "phase"}:
            raise ValueError(
                f"channels is {tuple(channels)}; allowed: ('amp', 'phase'), ('phase', 'amp') or ('phase',)."
            )
        self.channels, self.intensity = tuple(channels), intensity

    def sample(self, item: Any) -> Sample:  # noqa: ANN401
        """Read an item."""
        diffraction = as_tensor(item[0])
        diffraction = diffraction if diffraction.ndim == 3 else diffraction[None]
        labels = [as_tensor(one)[None] for one in item[1:3] if isinstance(one, Tensor | np.ndarray)]
        is_pair = len(labels) == len(self.channels) == 2 and labels[0].shape == labels[1].shape
        found = self._object(tuple(labels) if is_pair else labels[0])
        if found is None:
            return Sample(diffraction=diffraction, intensity=self.intensity)
        return Sample(
            diffraction=diffraction, intensity=self.intensity, label_amp=found.amp[0], label_phase=found.phase[0]
        )

    def observed(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Return the measured diffraction of a batch."""
        return as_tensor(batch[0])

    def arguments(self, items: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the diffraction, (B, ...)."""
        return (torch.stack([as_tensor(item[0]) for item in items]),)

    def predictions(self, outputs: Any) -> Predictions | None:  # noqa: ANN401
        """Read any of the forms above, or named `amp`, `phase` and optionally `pred_diffraction`."""
        named = _object_and_diffraction(outputs, min_ndim=3)
        return self._object(outputs) if named is None else named

    def _object(self, outputs: object) -> Predictions | None:
        """Read a batch of objects: a complex tensor, channels of one tensor, or one tensor per channel."""
        parts: dict[str, Tensor]
        if isinstance(outputs, Tensor) and outputs.is_complex() and outputs.ndim in (3, 4):
            parts = {"amp": outputs.abs(), "phase": outputs.angle()}
        elif isinstance(outputs, Tensor) and len(self.channels) == 1:
            parts = {"phase": outputs}
        elif isinstance(outputs, Tensor) and outputs.ndim == 4 and outputs.shape[1] == len(self.channels):
            parts = {name: outputs[:, i : i + 1] for i, name in enumerate(self.channels)}
        elif isinstance(outputs, tuple | list) and len(outputs) == len(self.channels):
            parts = dict(zip(self.channels, outputs, strict=True))
        else:
            return None
        phase = parts.get("phase")
        if not isinstance(phase, Tensor):
            return None
        amp = parts["amp"] if "amp" in parts else torch.ones_like(phase)
        if not (_is_real(amp, 3) and _is_real(phase, 3)):
            return None
        return Predictions(_with_channel(amp), _with_channel(phase))


def _object_and_diffraction(outputs: Any, *, min_ndim: int) -> Predictions | None:  # noqa: ANN401
    """Read `amp` and `phase` by name, or (diffraction, amp, phase); None if these are not batches of real images."""
    amp, phase, first = (member(outputs, name) for name in ("amp", "phase", "pred_diffraction"))
    if amp is None or phase is None:
        if not (isinstance(outputs, tuple | list) and len(outputs) == 3):
            return None
        first, amp, phase = outputs
    elif first is None and not hasattr(outputs, "keys"):  # in a mapping, `diffraction` may be measured
        first = getattr(outputs, "diffraction", None)
    if not (_is_real(amp, min_ndim) and _is_real(phase, min_ndim)):
        return None
    diffraction = _with_channel(first) if _is_real(first, min_ndim) else None
    return Predictions(_with_channel(amp), _with_channel(phase), diffraction)


def _with_channel(images: Tensor) -> Tensor:
    """Return (B, C, N, N) images from (B, N, N) or (B, C, N, N)."""
    return images if images.ndim == 4 else images[:, None]


def _is_real(value: object, min_ndim: int = 4) -> TypeGuard[Tensor]:
    """Return whether a value is a batch of real images."""
    return isinstance(value, Tensor) and min_ndim <= value.ndim <= 4 and value.is_floating_point()


def _is_intensity(names: set[str]) -> bool:
    """Return whether fields of these names hold count-intensity data."""
    return {"measured_intensity", "rms_input_scale"} <= names


def _field(fields: Any, *names: str) -> Tensor:  # noqa: ANN401
    """Return the first of the named fields that exists. Raises KeyError if none does."""
    for name in names:
        if name in fields.keys():  # noqa: SIM118 - a TensorDict has no `in`
            value: Tensor = fields[name]
            return value
    raise KeyError(f"the dataset's items have none of the fields {names}; they have {sorted(fields.keys())}.")


def _photon_scale(fields: Any) -> float | None:  # noqa: ANN401
    """Return the factor to sqrt(photons), 1 for intensities that are whole numbers; None if absent or unusable."""
    try:
        if "physics_scaling_constant" in fields.keys():  # noqa: SIM118
            return float(fields["physics_scaling_constant"].reshape(-1)[0])
        counts = fields["measured_intensity"]
        return 1.0 if bool((counts == counts.round()).all()) else None
    except Exception as error:  # user code
        raise_if_from_signal_handler(error)
        return None


def _probe(probe: Tensor, channels: int) -> Tensor:
    """Return the probe of an item as (C, P, N, N), from (N, N), (P, N, N) or (C, P, N, N)."""
    while probe.ndim < 4:
        probe = probe.unsqueeze(0)
    return probe.expand(channels, *probe.shape[1:]) if probe.shape[0] == 1 else probe
