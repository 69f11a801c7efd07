"""Summary sheet: one epoch on one page, with large objects, one row per patch, and a colour bar for each picture.

The reference sheet, the summary of step 0, has the same layout without predictions.

    epoch, step                                     metrics of the epoch
    object      metrics: errors, SSIM, FRC
                amplitude: predicted | truth | error
                phase:     predicted | truth | error
    patches     amplitude: predicted | truth | error      phase: ...      diffraction: observed | predicted | error

Small pictures are enlarged by whole factors, large ones averaged over squares.
"""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from recon_worker.pictures.figures import EpochFigures, Figure
from recon_worker.pictures.labels import METRICS, Kind, epoch_label, length_text, metric_label, metric_value, number
from recon_worker.pictures.layout import GREY, Page, draw_panel, drawing_scale, paste_panel, text_width_px
from recon_worker.pictures.png import LEVELS, RESERVED_COLOURS, Panel, to_indices
from recon_worker.reconstruction.misfit import SampleMisfit

OBJECT_SIDE_PX, PATCH_SIDE_PX, CARD_SIDE_PX = 400, 128, 240
"""Targets for the longer side of pictures of objects, of patches, and on the card of the newest epoch."""
MAX_OBJECTS, MAX_PATCHES = 4, 8
"""Maximum numbers drawn; the sheet notes any that are omitted."""
_CARD_MARGIN_PX = 12
_MARGIN_PX, _GAP_PX, _GROUP_GAP_PX, _LINE_PX, _SWATCH_PX = 28, 10, 30, 20, 12
_NUMBER_PX, _NUMBERS_PER_ROW, _NUMBERS_ROW_PX = 204, 6, 48
_LEAST_WIDTH_PX = 900
_WORST = 8
"""Number of samples with the largest misfit that the sheet names."""
_GROUPS = {
    "amp": "Amplitude",
    "phase": "Phase",
    "diff": "Diffraction, log(1 + intensity)",
    "misfit": "Misfit of the diffraction, R-factor",
}
_ROLES = {"pred": "predicted", "gt": "truth", "error": "error", "obs": "observed"}
_FIT = ("fit_scale", "fit_phase_rad", "fit_ramp_x_rad_per_px", "fit_ramp_y_rad_per_px")
_SPECIAL = ("\u2212infinity", "+infinity", "not a number", "not scanned, or nothing to compare")


def summary_png(figures: EpochFigures) -> bytes:
    """Draw the summary sheet of an epoch with at least one object or patch.

    Returns:
        An RGB PNG, about 1300 px wide. Deterministic.

    Raises:
        ValueError: The epoch has neither objects nor patches.
    """
    if not figures.figures():
        raise ValueError(f"{epoch_label(figures.epoch)} has neither objects nor patches; there is nothing to draw.")
    return _sheet(figures, epoch_label(figures.epoch), f"optimiser step {figures.step}", _LEAST_WIDTH_PX)


def reference_png(figures: EpochFigures) -> bytes:
    """Draw the reference sheet from `reference_figures` with at least one object or patch, as an RGB PNG."""
    kinds = {kind for figure in figures.figures() for kind in figure.panels}
    known = {"ground truth": "amp_gt" in kinds, "measured data": "diff_obs_logI" in kinds}
    title = "Reference: " + " and ".join(name for name, present in known.items() if present)
    return _sheet(figures, title, "known before training; nothing here is predicted")


def latest_png(figures: EpochFigures) -> bytes:
    """Draw the card of the newest epoch: amplitude and phase of the first object, or else patch, above the truth.

    MLflow shows the upper part of a card, a few hundred pixels wide, so the card has few pictures and large text.
    Raises the same errors as `summary_png`.
    """
    if not figures.figures():
        raise ValueError(f"{epoch_label(figures.epoch)} has neither objects nor patches; there is nothing to draw.")
    figure, page, y = figures.figures()[0], Page(), 34
    page.write(_CARD_MARGIN_PX, y, f"{epoch_label(figures.epoch)}, step {figures.step}", points=20, bold=True)
    rows: tuple[tuple[Kind, Kind], ...] = (("amp_pred", "phase_pred"), ("amp_gt", "phase_gt"))
    for row in rows:
        x, top = _CARD_MARGIN_PX, y
        for kind in row:
            if kind in figure.panels:
                group, role = kind.split("_")
                heading = f"{_GROUPS[group]}, {_ROLES[role]}"
                page.write(x, top + 28, heading, points=12)
                panel, inside = figure.panels[kind], figure.compared(kind)
                width, height = paste_panel(page, panel, x, top + 38, CARD_SIDE_PX, inside)
                x += max(width, math.ceil(text_width_px(heading, 12))) + _CARD_MARGIN_PX
                y = max(y, top + 38 + height)
    return page.png(page.width + _CARD_MARGIN_PX, y + _CARD_MARGIN_PX)


def _sheet(figures: EpochFigures, title: str, subtitle: str, least_width_px: int = 0) -> bytes:
    page = Page()
    y = _MARGIN_PX
    page.write(_MARGIN_PX, y + 16, title, points=17, bold=True)
    page.write(_MARGIN_PX, y + 38, subtitle, colour=GREY)
    _draw_metrics(page, figures.metrics, _MARGIN_PX + 2 * _NUMBER_PX, y + 10)
    y += 54 + _GROUP_GAP_PX
    for figure in figures.objects[:MAX_OBJECTS]:
        y = _draw_object(page, figure, figures.pixel_size_m, y)
    if figures.patches:
        y = _draw_patches(page, figures.patches, y)
    if len(figures.objects) > MAX_OBJECTS:
        page.write(_MARGIN_PX, y, f"{MAX_OBJECTS} of {len(figures.objects)} objects are shown.", colour=GREY)
        y += _LINE_PX
    y = _draw_key(page, (*figures.objects[:MAX_OBJECTS], *figures.patches[:MAX_PATCHES]), y)
    return page.png(max(least_width_px, page.width + _MARGIN_PX), y + _MARGIN_PX // 2)


def _draw_metrics(page: Page, metrics: Mapping[str, float], x: int, y: int) -> int:
    """Write each metric with its grey label above it; like the functions below, return y of the next part."""
    shown = [name for name in METRICS if name in metrics and name not in _FIT]
    for index, name in enumerate(shown):
        row, column = divmod(index, _NUMBERS_PER_ROW)
        left, top = x + column * _NUMBER_PX, y + row * _NUMBERS_ROW_PX
        page.write(left, top, metric_label(name).label, points=8, colour=GREY)
        page.write(left, top + _LINE_PX, metric_value(name, metrics[name]), points=11, bold=True)
    return y + math.ceil(len(shown) / _NUMBERS_PER_ROW) * _NUMBERS_ROW_PX


def _draw_section_title(page: Page, title: str, facts: Sequence[str], y: int) -> int:
    page.write(_MARGIN_PX, y, title, points=12, bold=True)
    page.write(_MARGIN_PX + _NUMBER_PX, y, ", ".join(facts), colour=GREY)
    return y + _LINE_PX + 10


def _draw_object(page: Page, figure: Figure, pixel_size_m: float | None, y: int) -> int:
    height, width = next(iter(figure.panels.values())).values.shape
    facts = [f"{height} \u00d7 {width} px"]
    if pixel_size_m is not None:
        facts.append(f"pixel size {length_text(pixel_size_m)}")
    if (block := drawing_scale((height, width), OBJECT_SIDE_PX)[0]) > 1:
        facts.append(f"averaged over {block} \u00d7 {block} px")
    kind, _, object_number = figure.name.partition("_object_")
    title = f"Object {object_number}".rstrip() + (", refined" if kind == "refined" else "")
    y = _draw_section_title(page, title, facts, y)
    y = _draw_metrics(page, figure.metrics, _MARGIN_PX, y)
    if "fit_scale" in figure.metrics:
        scale, phase, ramp_x, ramp_y = (figure.metrics.get(name, 0.0) for name in _FIT)
        ramp = f", phase ramp ({number(ramp_x)}, {number(ramp_y)}) rad/px along (x, y)" if ramp_x or ramp_y else ""
        text = f"Aligned with the truth: amplitude scale {number(scale)}, global phase {number(phase)} rad{ramp}."
        page.write(_MARGIN_PX, y, text, points=8, colour=GREY)
        y += _LINE_PX + 6
    panels = figure.panels.items()
    by_group = [[pair for pair in panels if pair[0].startswith(group)] for group in ("amp_", "phase_", "misfit")]
    for row in filter(None, by_group if len(by_group[0]) > 1 else [list(panels)]):
        y = _draw_object_row(page, kind, row, pixel_size_m, y) + _GAP_PX
    if figure.misfit is not None:
        page.write(_MARGIN_PX, y, _worst_samples(figure.misfit), points=8, colour=GREY)
        y += _LINE_PX
    return y + _GROUP_GAP_PX - _GAP_PX


def _worst_samples(misfit: SampleMisfit) -> str:
    rows = misfit.worst_first()[:_WORST]
    named = [f"{misfit.samples[row]} ({metric_value('r_factor', float(misfit.r_factor[row]))})" for row in rows]
    return f"Samples with the largest misfit (R-factor): {', '.join(named)}."


def _draw_object_row(
    page: Page, object_kind: str, row: Sequence[tuple[Kind, Panel]], pixel_size_m: float | None, y: int
) -> int:
    x, bottom = _MARGIN_PX, y
    for column, (kind, panel) in enumerate(row):
        group, _, role = kind.partition("_")
        shown = "refined" if (object_kind, role) == ("refined", "pred") else _ROLES.get(role, "")
        heading = _GROUPS[group] + (" error" if role == "error" else f", {shown}" if role else "")
        page.write(x, y + 8, heading, bold=True)
        scale_bar_m = pixel_size_m if (group, column) == ("amp", 0) else None
        width, height = draw_panel(page, panel, x, y + 16, OBJECT_SIDE_PX, 3, pixel_size_m=scale_bar_m)
        width = max(width, math.ceil(text_width_px(heading, 9, bold=True)))
        x, bottom = x + width + _GROUP_GAP_PX, max(bottom, y + 16 + height)
    return bottom + _GAP_PX


def _draw_patches(page: Page, patches: Sequence[Figure], y: int) -> int:
    shown = patches[:MAX_PATCHES]
    facts = [f"{len(shown)} of {len(patches)} shown"] if len(shown) < len(patches) else []
    if any("amp_error" in figure.panels for figure in shown):
        facts += ["amplitude scale and global phase fitted per patch", "dimmed borders are not compared"]
    y = _draw_section_title(page, "Patches", facts, y)
    columns = _columns(shown)
    for group, title in _GROUPS.items():
        first = next((x for kind, x in columns.items() if kind.startswith(f"{group}_")), None)
        if first is not None:
            page.write(first, y, title, bold=True)
    for kind, x in columns.items():
        page.write(x, y + _LINE_PX - 2, _ROLES[kind.split("_")[1]], points=8, colour=GREY)
    y += _LINE_PX + 2 * _GAP_PX
    for figure in shown:
        metrics = [f"{metric_label(k).label} {metric_value(k, v)}" for k, v in figure.metrics.items() if k not in _FIT]
        page.write(_MARGIN_PX, y + 8, f"Sample {figure.index}", points=8, bold=True)
        page.write(_MARGIN_PX + 100, y + 8, "    ".join(metrics), points=8, colour=GREY)
        top = y + 14
        drawn = [
            draw_panel(page, panel, columns[kind], top, PATCH_SIDE_PX, 2, compared=figure.compared(kind))
            for kind, panel in figure.panels.items()
        ]
        y = top + max(height for _, height in drawn) + _GAP_PX
    return y + _GAP_PX


def _columns(patches: Sequence[Figure]) -> dict[Kind, int]:
    """Return the left edge of the column of each kind of panel, pixels, in display order."""
    shapes = {panel.values.shape for figure in patches for panel in figure.panels.values()}
    scaled = [(shape, *drawing_scale(shape, PATCH_SIDE_PX)) for shape in shapes]
    width = max(math.ceil(shape[1] / block) * factor for shape, block, factor in scaled)
    present = {kind for figure in patches for kind in figure.panels}
    ordered: tuple[Kind, ...] = get_args(Kind)
    columns: dict[Kind, int] = {}
    x = _MARGIN_PX
    for group in _GROUPS:
        members = [kind for kind in ordered if kind in present and kind.startswith(f"{group}_")]
        columns |= {kind: x + column * (width + _GAP_PX) for column, kind in enumerate(members)}
        x += len(members) * (width + _GAP_PX) + _GROUP_GAP_PX - _GAP_PX if members else 0
    return columns


def _draw_key(page: Page, figures: Sequence[Figure], y: int) -> int:
    """Draw the legend of the reserved colours in use."""
    indices = [np.unique(to_indices(panel)) for figure in figures for panel in figure.panels.values()]
    entries = sorted({entry for present in indices for entry in present[present >= LEVELS].tolist()})
    for index, entry in enumerate(entries):
        x = _MARGIN_PX + index * _NUMBER_PX
        colour = np.array(RESERVED_COLOURS[entry], np.uint8)
        page.paste(x, y - _SWATCH_PX + 2, np.tile(colour, (_SWATCH_PX, _SWATCH_PX, 1)))
        page.write(x + _SWATCH_PX + 8, y, _SPECIAL[entry - LEVELS], points=8, colour=GREY)
    return y + _LINE_PX if entries else y
