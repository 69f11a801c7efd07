"""Settings of the reconstruction from a checkpoint. Free of heavy imports."""

from dataclasses import dataclass
from pathlib import Path

from ptycho_torch.checks import (
    check_arrays_format,
    check_choices,
    check_directory,
    check_indices,
    check_pixel_size,
    check_readable,
    option,
    require,
)
from ptycho_torch.config import Accelerator
from recon_worker.snapshot.choices import ArraysFormat, StitchWeight

_PICTURES = "Pictures and numbers (default: as in training)"


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Reconstruction"""

    checkpoint: Path = option(
        None, "checkpoint of a training run, such as outputs/checkpoints/last.ckpt (required)", metavar="CKPT"
    )
    data_file: Path = option(
        None,
        "NPZ file with the scan to reconstruct (required), in the format, pattern size and units of the training scan, "
        "whose probe and normalisation are used",
        metavar="NPZ",
    )
    output_dir: Path = option(Path("reconstruction"), "output directory; existing files of the same name are replaced")
    arrays: ArraysFormat = option(
        "npz", "format of the stitched object as arrays: npz, h5 (HDF5 in CXI conventions, needs h5py) or none"
    )
    refine_passes: int = option(
        0,
        "also refine the stitched object against the diffraction with N passes over the patterns, and write it beside "
        "the prediction, as 'refined'; 15 is usually enough; 0: no refinement",
    )
    accelerator: Accelerator = option("auto", "device to compute on")
    allow_pickled_metadata: bool = option(
        False, "read metadata that older files store as a pickled string; nothing else is ever unpickled"
    )
    num_patches: int | None = option(
        None, "number of sample patches, evenly spaced over the scan; 0: none", group=_PICTURES
    )
    fixed_indices: tuple[int, ...] | None = option(
        None, "indices of the sample patches, instead of evenly spaced ones", group=_PICTURES, metavar="I"
    )
    max_stitch_samples: int | None = option(
        None,
        "stitch only the first N samples; the rest of the object is shown as not scanned (default: all)",
        group=_PICTURES,
    )
    stitch_weight: StitchWeight | None = option(
        None, "weight of overlapping patches: uniform, or the probe's intensity", group=_PICTURES
    )
    ramp: bool | None = option(
        None, "remove a linear phase ramp from the stitched object before computing errors", group=_PICTURES
    )
    pixel_size: float | None = option(
        None, "side of an object pixel, metres: for scale bars, resolutions in nm and the arrays", group=_PICTURES
    )
    scales: Path | None = option(
        None,
        "recon_log/scales.json of a run, for the colour ranges of its pictures; default: ranges of this scan",
        group=_PICTURES,
        metavar="JSON",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.checkpoint is not None, "checkpoint is missing. Name one that training has written: --checkpoint.")
        require(self.data_file is not None, "data_file is missing. Name the NPZ file to reconstruct: --data_file.")
        for name in ("checkpoint", "data_file", "scales"):
            check_readable(name, getattr(self, name))
        check_directory("output_dir", self.output_dir)
        check_arrays_format("arrays", self.arrays)
        require(self.num_patches is None or self.num_patches >= 0, f"num_patches is {self.num_patches}; at least 0.")
        check_indices("fixed_indices", self.fixed_indices)
        require(
            self.num_patches is None or self.fixed_indices is None,
            "num_patches and fixed_indices are both given, and both select patches. Give one of them.",
        )
        require(self.refine_passes >= 0, f"refine_passes is {self.refine_passes}; it must be at least 0.")
        limit = self.max_stitch_samples
        require(limit is None or limit >= 1, f"max_stitch_samples is {limit}; it must be at least 1.")
        check_pixel_size("pixel_size", self.pixel_size)
