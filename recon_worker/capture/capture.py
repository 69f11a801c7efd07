"""Copies predictions of a network, batch by batch, into the arrays of a snapshot."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, from_numpy

from recon_worker.capture.copying import Copier, Part
from recon_worker.capture.gathering import Destination
from recon_worker.capture.plan import FixedRows, Shard
from recon_worker.reconstruction.stitching import crop_start_px
from recon_worker.snapshot.records import SnapshotArrays, SnapshotLayout

_Target = tuple[Tensor, Tensor, Part | None, FixedRows, int]
"""Of one batch: views of its rows in the amplitude and phase stitch arrays, the part of the predictions to copy there
(None: nothing), its fixed patches, and its minimum number of samples."""


class Capture:
    """Fills the arrays of one snapshot, or of one rank's shard of it, batch by batch.

    Code between batches runs with cold caches, where every line of Python is expensive: views are created in advance,
    once per memory block. Releasing tensors is expensive too, because other threads may take the GIL meanwhile.

    Args:
        shard: Destinations of the samples.
        arrays: Arrays with the shard's layout.
        copier: Copies predictions into the arrays.
    """

    def __init__(self, shard: Shard, arrays: SnapshotArrays, copier: Copier) -> None:
        self.arrays = arrays
        self.destinations = (
            Destination((arrays.fixed_amp, arrays.fixed_phase), arrays.fixed_filled),
            Destination((arrays.fixed_diffraction,), np.zeros(len(arrays.fixed_filled), bool)),
            Destination((arrays.stitch_amp, arrays.stitch_phase), arrays.stitch_filled),
        )
        """Destinations of the fixed patches' objects, of their diffraction, and of the centre crops."""
        self._shard, self._copy, self._wait = shard, copier.copy, copier.wait
        self.has_diffraction = self.destinations[1].filled
        """(k,) Whether the diffraction of each fixed patch is predicted; not all networks predict it."""
        crop = crop_of(shard.layout)
        self._targets: list[_Target] = [
            (
                from_numpy(arrays.stitch_amp[route.rows]),
                from_numpy(arrays.stitch_phase[route.rows]),
                (route.samples, *crop) if route.samples.stop else None,
                route.fixed,
                route.size,
            )
            for route in shard.routes
        ]
        self._copied: list[int] = []

    def restart(self) -> None:
        """Start over in the same arrays. Their rows must be marked as not filled."""
        self.has_diffraction[:] = False
        self._copied.clear()

    def add_outputs(self, batch_idx: int, outputs: object) -> None:
        """Copy the (B, C, N, N) predictions of a validation step, which returned a mapping with `amp` and `phase`.

        Ignores other outputs, batches beyond the end of the dataset, and batches that lost samples (a collate function
        may skip bad ones), because their samples cannot be identified.
        """
        if not isinstance(outputs, Mapping):
            return
        amp, phase = outputs.get("amp"), outputs.get("phase")
        if not isinstance(amp, Tensor) or not isinstance(phase, Tensor):
            return
        if batch_idx >= len(self._targets):
            return
        amp_rows, phase_rows, part, fixed, size = self._targets[batch_idx]
        if min(len(amp), len(phase)) < size:
            return
        if part is not None:
            self._copy(amp_rows, amp, part)
            self._copy(phase_rows, phase, part)
            self._copied.append(batch_idx)
        if not fixed:
            return
        arrays, diffraction = self.arrays, outputs.get("pred_diffraction")
        for row, sample in fixed:
            self._copy(from_numpy(arrays.fixed_amp[row]), amp, (sample, 0))
            self._copy(from_numpy(arrays.fixed_phase[row]), phase, (sample, 0))
            if diffraction is not None:
                self._copy(from_numpy(arrays.fixed_diffraction[row]), diffraction, (sample, 0))
                self.has_diffraction[row] = True
            arrays.fixed_filled[row] = True

    def finish(self) -> None:
        """Wait for all copies, then mark the filled rows."""
        self._wait()
        for batch_idx in self._copied:
            self.arrays.stitch_filled[self._shard.routes[batch_idx].rows] = True
        self._copied.clear()


def crop_of(layout: SnapshotLayout) -> tuple[slice, slice, slice]:
    """Return the index of the centre crops (C, m, m) in a sample (C, N, N)."""
    start = crop_start_px(layout.patch_px, layout.crop_px)
    inside = slice(start, start + layout.crop_px)
    return slice(None), inside, inside
