"""The summary sheet: one epoch on one page. Objects large, then one row per patch, each picture with its colour bar.

    epoch, step                                     numbers of the epoch
    object      numbers: errors, SSIM, resolution
                amplitude: predicted | truth | error
                phase:     predicted | truth | error
    patches     amplitude: predicted | truth | error      phase: ...      diffraction: observed | predicted | error

Pictures are enlarged by whole factors or, where they are large, averaged over squares.
"""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from recon_worker.pictures.labels import length_text, metric_label, metric_value, number
from recon_worker.pictures.page import GREY, Page
from recon_worker.pictures.plate import draw_plate, draw_scale_bar, plate_block, plate_shape, shown_entries
from recon_worker.pictures.png import LEVELS, RESERVED_COLOURS
from recon_worker.pictures.views import METRICS, Kind, ObjectView, Panel, PatchView, Sheet

OBJECT_SIDE_PX, PATCH_SIDE_PX = 400, 128
"""Sides that pictures of objects and of patches come close to."""
MAX_OBJECTS, MAX_PATCHES = 4, 8
"""How many are drawn at most; the sheet says so where there are more."""
_MARGIN_PX, _GAP_PX, _GROUP_GAP_PX, _LINE_PX, _SWATCH_PX = 28, 10, 30, 20, 12
_NUMBER_PX, _NUMBERS_PER_ROW, _NUMBERS_ROW_PX = 204, 6, 48
_LEAST_WIDTH_PX = 900
_GROUPS = {"amp": "Amplitude", "phase": "Phase", "diff": "Diffraction, log(1 + intensity)"}
_ROLES = {"pred": "predicted", "gt": "truth", "error": "error", "obs": "observed"}
_FIT = ("fit_scale", "fit_phase_rad", "fit_ramp_x_rad_per_px", "fit_ramp_y_rad_per_px")
_SPECIAL = ("\u2212infinity", "+infinity", "not a number", "not scanned, or nothing to compare")


def summary_png(sheet: Sheet) -> bytes:
    """Draw an epoch.

    Args:
        sheet: With at least one object or patch.

    Returns:
        An RGB PNG, about 1300 px wide. The same sheet gives the same bytes.

    Raises:
        ValueError: The sheet has neither objects nor patches.
    """
    if not sheet.objects and not sheet.patches:
        raise ValueError(f"{sheet.label} has neither objects nor patches; there is nothing to draw.")
    page = Page()
    y = _heading(page, sheet, _MARGIN_PX)
    for view in sheet.objects[:MAX_OBJECTS]:
        y = _object(page, view, sheet.pixel_size_m, y)
    if sheet.patches:
        y = _patches(page, sheet.patches, y)
    y = _notes(page, sheet, y)
    return page.png(max(_LEAST_WIDTH_PX, page.width + _MARGIN_PX), y + _MARGIN_PX // 2)


def _heading(page: Page, sheet: Sheet, y: int) -> int:
    """As the functions below, draws from y downwards and returns where the next part begins."""
    page.write(_MARGIN_PX, y + 16, sheet.label, points=17, bold=True)
    page.write(_MARGIN_PX, y + 38, f"optimiser step {sheet.step}", colour=GREY)
    _numbers(page, sheet.metrics, _MARGIN_PX + 2 * _NUMBER_PX, y + 10)
    return y + 54 + _GROUP_GAP_PX


def _numbers(page: Page, metrics: Mapping[str, float], x: int, y: int) -> int:
    """What each is in grey, below it the value."""
    shown = [name for name in METRICS if name in metrics and name not in _FIT]
    for place, name in enumerate(shown):
        row, column = divmod(place, _NUMBERS_PER_ROW)
        left, top = x + column * _NUMBER_PX, y + row * _NUMBERS_ROW_PX
        page.write(left, top, metric_label(name).label, points=8, colour=GREY)
        page.write(left, top + _LINE_PX, metric_value(name, metrics[name]), points=11, bold=True)
    return y + math.ceil(len(shown) / _NUMBERS_PER_ROW) * _NUMBERS_ROW_PX


def _section(page: Page, title: str, facts: str, y: int) -> int:
    page.write(_MARGIN_PX, y, title, points=12, bold=True)
    page.write(_MARGIN_PX + _NUMBER_PX, y, facts, colour=GREY)
    return y + _LINE_PX + 10


def _object(page: Page, view: ObjectView, pixel_size_m: float | None, y: int) -> int:
    y = _section(page, _object_title(view.name), _facts(view.amp_pred, pixel_size_m), y)
    y = _numbers(page, view.metrics, _MARGIN_PX, y)
    if text := fit_text(view.metrics):
        page.write(_MARGIN_PX, y, text, points=8, colour=GREY)
        y += _LINE_PX + 6
    panels = list(view.panels())
    by_group = [[pair for pair in panels if pair[0].startswith(group)] for group in ("amp_", "phase_")]
    for row in by_group if len(panels) > 2 else [panels]:
        y = _object_row(page, view.name, row, pixel_size_m, y) + _GAP_PX
    return y + _GROUP_GAP_PX - _GAP_PX


def _object_title(name: str) -> str:
    """Of "stitched", "stitched_object_01" and "refined"."""
    return {"stitched": "Object", "refined": "Object, refined"}.get(name, f"Object {name.rsplit('_', 1)[-1]}")


def _facts(panel: Panel, pixel_size_m: float | None) -> str:
    height, width = panel.values.shape
    facts = [f"{height} \u00d7 {width} px"]
    if pixel_size_m is not None:
        facts.append(f"pixel size {length_text(pixel_size_m)}")
    if (block := plate_block(panel, OBJECT_SIDE_PX)) > 1:
        facts.append(f"shown as means of {block} \u00d7 {block} px")
    return ", ".join(facts)


def fit_text(metrics: Mapping[str, float]) -> str:
    """What was taken out of the prediction before it was compared; empty where nothing was."""
    if "fit_scale" not in metrics:
        return ""
    scale, phase, ramp_x, ramp_y = (metrics.get(name, 0.0) for name in _FIT)
    ramp = f", phase ramp ({number(ramp_x)}, {number(ramp_y)}) rad/px along (x, y)" if ramp_x or ramp_y else ""
    fit = f"amplitude scale {number(scale)}, global phase {number(phase)} rad{ramp}"
    return f"Shown and compared after the best fit: {fit}."


def _object_row(page: Page, name: str, row: Sequence[tuple[Kind, Panel]], pixel_size_m: float | None, y: int) -> int:
    x, bottom = _MARGIN_PX, y
    for kind, panel in row:
        page.write(x, y + 8, _title(name, kind), bold=True)
        width, height = draw_plate(page, panel, x, y + 16, OBJECT_SIDE_PX, 3)
        if kind == "amp_pred" and pixel_size_m is not None:
            draw_scale_bar(page, panel, x, y + 16, OBJECT_SIDE_PX, pixel_size_m)
        x, bottom = x + width + _GROUP_GAP_PX, max(bottom, y + 16 + height)
    return bottom + _GAP_PX


def _title(name: str, kind: Kind) -> str:
    group, role = kind.split("_")[:2]
    if role == "error":
        return f"{_GROUPS[group]} error"
    return f"{_GROUPS[group]}, {'refined' if (name, role) == ('refined', 'pred') else _ROLES[role]}"


def _patches(page: Page, patches: Sequence[PatchView], y: int) -> int:
    shown = patches[:MAX_PATCHES]
    facts = [f"{len(shown)} of {len(patches)} are shown"] if len(shown) < len(patches) else []
    facts += ["scale and global phase of each are fitted"] if any(view.amp_gt for view in shown) else []
    y = _section(page, "Patches", ", ".join(facts), y)
    columns = _columns(shown)
    for group, title in _GROUPS.items():
        first = next((x for kind, x in columns.items() if kind.startswith(f"{group}_")), None)
        if first is not None:
            page.write(first, y, title, bold=True)
    for kind, x in columns.items():
        page.write(x, y + _LINE_PX - 2, _ROLES[kind.split("_")[1]], points=8, colour=GREY)
    y += _LINE_PX + 2 * _GAP_PX
    for view in shown:
        y = _patch(page, view, columns, y)
    return y + _GAP_PX


def _columns(patches: Sequence[PatchView]) -> dict[Kind, int]:
    """Where the pictures of each kind stand: x in pixels, in the order of the panels."""
    width = max(plate_shape(panel, PATCH_SIDE_PX)[1] for view in patches for _, panel in view.panels())
    present = {kind for view in patches for kind, _ in view.panels()}
    ordered: tuple[Kind, ...] = get_args(Kind)
    columns: dict[Kind, int] = {}
    x = _MARGIN_PX
    for group in _GROUPS:
        members = [kind for kind in ordered if kind in present and kind.startswith(f"{group}_")]
        columns |= {kind: x + place * (width + _GAP_PX) for place, kind in enumerate(members)}
        x += len(members) * (width + _GAP_PX) + _GROUP_GAP_PX - _GAP_PX
    return columns


def _patch(page: Page, view: PatchView, columns: Mapping[Kind, int], y: int) -> int:
    numbers = [
        f"{metric_label(name).label} {metric_value(name, value)}"
        for name, value in view.metrics.items()
        if name not in _FIT
    ]
    page.write(_MARGIN_PX, y + 8, f"Sample {view.index}", points=8, bold=True)
    page.write(_MARGIN_PX + 100, y + 8, "    ".join(numbers), points=8, colour=GREY)
    top = y + 14
    heights = [draw_plate(page, panel, columns[kind], top, PATCH_SIDE_PX, 2)[1] for kind, panel in view.panels()]
    return top + max(heights) + _GAP_PX


def _notes(page: Page, sheet: Sheet, y: int) -> int:
    """What the special colours mean, if there are any, and what is left out."""
    if len(sheet.objects) > MAX_OBJECTS:
        page.write(_MARGIN_PX, y, f"{MAX_OBJECTS} of {len(sheet.objects)} objects are shown.", colour=GREY)
        y += _LINE_PX
    views = (*sheet.objects[:MAX_OBJECTS], *sheet.patches[:MAX_PATCHES])
    entries = sorted({entry for view in views for _, panel in view.panels() for entry in shown_entries(panel).tolist()})
    x = _MARGIN_PX
    for entry in entries:
        colour = np.array(RESERVED_COLOURS[entry - LEVELS], np.uint8)
        page.paste(x, y - _SWATCH_PX + 2, np.tile(colour, (_SWATCH_PX, _SWATCH_PX, 1)))
        page.write(x + _SWATCH_PX + 8, y, _SPECIAL[entry - LEVELS], points=8, colour=GREY)
        x += _NUMBER_PX
    return y + _LINE_PX if entries else y
