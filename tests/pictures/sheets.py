"""Sheets of small known arrays, for the tests of what is drawn from them."""

import math

import numpy as np

from recon_worker.pictures.views import PHASE_PERIOD, ObjectView, Panel, PatchView, Sheet

AMPLITUDE, PHASE, ERROR = (
    ("gray", "1", (0.0, 1.5)),
    ("twilight", "rad", (-math.pi, math.pi)),
    ("inferno", "1", (0, 0.5)),
)
DIFFRACTION = ("magma", "log(1 + data amplitude squared)", (0.0, 8.0))


def panel(seed, shape, kind=AMPLITUDE, scanned=None):
    """Random values over the whole range."""
    colormap, unit, value_range = kind
    values = np.random.default_rng(seed).uniform(*value_range, shape).astype(np.float32)
    period = PHASE_PERIOD if kind is PHASE else None
    return Panel(
        values=values,
        value_range=value_range,
        colormap=colormap,
        quantity=f"quantity {seed}",
        unit=unit,
        scanned=scanned,
        period=period,
    )


def _pictures(seed, shape, truth):
    pictures = {"amp_pred": panel(seed, shape), "phase_pred": panel(seed + 1, shape, PHASE)}
    if truth:
        pictures |= {"amp_gt": panel(1, shape), "phase_gt": panel(2, shape, PHASE)}
        pictures |= {"amp_error": panel(seed + 2, shape, ERROR), "phase_error": panel(seed + 3, shape, ERROR)}
    return pictures


def sheet(epoch=5, *, shape=(40, 40), truth=True, objects=1, patches=1, patch_shape=(16, 16), **facts):
    """An epoch; its pictures differ from those of other epochs, the truth does not."""
    seed = 100 * epoch
    names = ["stitched", *(f"stitched_object_{k:02d}" for k in range(1, objects))][:objects]
    return Sheet(
        epoch=epoch,
        step=10 * epoch,
        folder=f"epoch_{epoch:02d}",
        objects=tuple(
            ObjectView(name=name, metrics={"amp_mae": 1 / (epoch + 1)}, **_pictures(seed + k, shape, truth))
            for k, name in enumerate(names)
        ),
        patches=tuple(
            PatchView(
                name=f"patch_{k:02d}",
                index=k,
                diff_obs=panel(k, patch_shape, DIFFRACTION),
                diff_pred=panel(seed + 7, patch_shape, DIFFRACTION),
                diff_error=panel(seed + 8, patch_shape, ERROR),
                **_pictures(seed + 20 + k, patch_shape, truth),
            )
            for k in range(patches)
        ),
        metrics={"r_factor": math.nan if epoch == 0 else 0.1},
        **facts,
    )
