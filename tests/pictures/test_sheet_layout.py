"""On no sheet is a text cut off or written over another one."""

import dataclasses
import itertools

import pytest

from recon_worker.pictures.layout import Page, text_width_px
from recon_worker.pictures.summary import reference_png, summary_png
from tests.pictures.sheets import pixels, sheet

METRICS = dict.fromkeys(
    (*("r_factor", "mean_pattern_r_factor", "deviance", "mean_pattern_deviance", "finite_share", "phase_mae_rad"),),
    0.123,
)
FIT = {"fit_scale": 1.5, "fit_phase_rad": -0.25, "fit_ramp_x_rad_per_px": 1e-6, "fit_ramp_y_rad_per_px": -1.23e-6}
HALF_DATA = {"half_data_frc_cutoff": 0.1, "half_data_frc_half_period_px": 5, "half_data_frc_half_period_nm": 125}
SHARES = {"left": 0.0, "center": 0.5, "right": 1.0}


@pytest.fixture
def boxes(monkeypatch):
    """(text, left, top, right, bottom) of each text of a sheet, pixels."""
    found = []
    write = Page.write

    def spy(page, x, y, text, *, points=9, align="left", bold=False, **style):
        width = text_width_px(text, points, bold=bold)
        left = x - SHARES[align] * width
        found.append((text, left, y - points, left + width, y + points / 3))
        write(page, x, y, text, points=points, align=align, bold=bold, **style)

    monkeypatch.setattr(Page, "write", spy)
    return found


def only(drawn, *kinds):
    """The sheet with these kinds of panels of its patches."""
    patches = [
        dataclasses.replace(one, panels={kind: panel for kind, panel in one.panels.items() if kind in kinds})
        for one in drawn.patches
    ]
    return dataclasses.replace(drawn, patches=tuple(patches))


def with_metrics(drawn, **changes):
    objects, patches = (
        tuple(dataclasses.replace(one, metrics=metrics) for one in figures)
        for figures, metrics in ((drawn.objects, METRICS | FIT | HALF_DATA), (drawn.patches, METRICS | FIT))
    )
    return dataclasses.replace(drawn, objects=objects, patches=patches, metrics=METRICS, **changes)


TRUE, OBSERVED = ("amp_gt", "phase_gt"), "diff_obs_logI"
PREDICTED, ERRORS = ("amp_pred", "phase_pred"), ("amp_error", "phase_error")
SHEETS = {
    "whole": sheet(patches=2),
    "one diffraction column": only(sheet(objects=0), *PREDICTED, OBSERVED),
    "one diffraction column, truth": only(sheet(objects=0), *PREDICTED, *TRUE, *ERRORS, OBSERVED),
    "only predicted diffraction": only(sheet(), *PREDICTED, "diff_pred_logI"),
    "no diffraction": only(sheet(objects=0), *PREDICTED),
    "no patches": sheet(patches=0, truth=False, pixel_size_m=28e-9),
    "small patches": sheet(patch_shape=(172, 172)),
    "tall object": sheet(shape=(300, 20)),
    "flat object": sheet(shape=(20, 300), truth=False),
}


@pytest.mark.parametrize("drawn", [pytest.param(one, id=name) for name, one in SHEETS.items()])
@pytest.mark.parametrize("metrics", [False, True])
def test_every_text_of_the_summary_is_inside_the_page_and_none_is_over_another(boxes, drawn, metrics):
    page = pixels(summary_png(with_metrics(drawn) if metrics else drawn))

    assert_readable(boxes, page.shape)


@pytest.mark.parametrize("kinds", [(*TRUE, OBSERVED), (OBSERVED,), TRUE])
@pytest.mark.parametrize("objects", [0, 1])
def test_every_text_of_the_reference_is_inside_the_page_and_none_is_over_another(boxes, kinds, objects):
    drawn = only(sheet(patches=2, objects=objects), *kinds)
    objects = [{kind: one.panels[kind] for kind in TRUE} for one in drawn.objects]
    objects = tuple(dataclasses.replace(one, panels=panels) for one, panels in zip(drawn.objects, objects, strict=True))
    page = pixels(reference_png(dataclasses.replace(drawn, objects=objects, metrics={})))

    assert_readable(boxes, page.shape)


def assert_readable(boxes, shape):
    height, width = shape[:2]
    for text, left, top, right, bottom in boxes:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width - 10, text
        assert bottom <= height, text
    for (one, *a), (other, *b) in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{one!r} is over {other!r}"
