"""Sheets of small known arrays for tests of drawing."""

import io
import math
from typing import get_args

import numpy as np
from PIL import Image

from recon_worker.pictures.figures import PHASE_PERIOD, EpochFigures, Figure
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import Panel

AMPLITUDE, PHASE, ERROR = (
    ("gray", "1", (0.0, 1.5)),
    ("twilight", "rad", (-math.pi, math.pi)),
    ("inferno", "1", (0, 0.5)),
)
DIFFRACTION = ("magma", "log(1 + data amplitude squared)", (0.0, 8.0))


def pixels(png):
    """(H, W, 3) uint8, RGB."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


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


def _panels(seed, shape, truth):
    panels = {"amp_pred": panel(seed, shape), "phase_pred": panel(seed + 1, shape, PHASE)}
    if truth:
        panels |= {"amp_gt": panel(1, shape), "phase_gt": panel(2, shape, PHASE)}
        panels |= {"amp_error": panel(seed + 2, shape, ERROR), "phase_error": panel(seed + 3, shape, ERROR)}
    return {kind: panels[kind] for kind in get_args(Kind) if kind in panels}


def _patch_panels(seed, index, shape, truth):
    return _panels(seed + 20 + index, shape, truth) | {
        "diff_obs_logI": panel(index, shape, DIFFRACTION),
        "diff_pred_logI": panel(seed + 7, shape, DIFFRACTION),
        "diff_error_logI": panel(seed + 8, shape, ERROR),
    }


def sheet(epoch=5, *, shape=(40, 40), truth=True, objects=1, patches=1, patch_shape=(16, 16), **facts):
    """Figures of an epoch; predictions differ between epochs, the truth does not."""
    seed = 100 * epoch
    names = ["stitched", *(f"stitched_object_{k:02d}" for k in range(1, objects))][:objects]
    return EpochFigures(
        epoch=epoch,
        step=10 * epoch,
        folder=f"epoch_{epoch:02d}",
        objects=tuple(
            Figure(name=name, metrics={"amp_mae": 1 / (epoch + 1)}, panels=_panels(seed + k, shape, truth))
            for k, name in enumerate(names)
        ),
        patches=tuple(
            Figure(name=f"patch_{k:02d}", index=k, panels=_patch_panels(seed, k, patch_shape, truth))
            for k in range(patches)
        ),
        metrics={"r_factor": math.nan if epoch == 0 else 0.1},
        **facts,
    )
