"""From a snapshot to named artifacts: which files there are and what they are called. What they show: `panels`.

    epoch_05/summary.png
    epoch_05/stitched/{amp,phase}_pred.png   {amp,phase}_gt.png  {amp,phase}_error.png  complex.png  arrays.npz or .h5
    epoch_05/stitched_object_01/...          further objects
    epoch_05/patch_272/...                   the same without arrays, and diff_{obs,pred,error}_logI.png
    recon_log/gallery.html  scales.json      of all epochs so far: replaced by each one
    recon_log/evolution.gif                  at the end

Ground truth and errors exist only where there is a real ground truth. Beside the files there are metrics, image cards
and, if wanted, the run's description (`deliveries`).
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from recon_worker.pictures.arrays import ENCODERS, ObjectArrays
from recon_worker.pictures.complex_png import encode_complex_png
from recon_worker.pictures.history import History
from recon_worker.pictures.labels import metric_label, metric_value
from recon_worker.pictures.panels import Panels, RefinedObject, Shown
from recon_worker.pictures.png import encode_panel
from recon_worker.pictures.records import DESCRIPTION_NAME, Latest, Numbers, card_name, metrics_name
from recon_worker.pictures.resizing import block_to_fit, shrunk
from recon_worker.pictures.summary import summary_png
from recon_worker.pictures.views import METRICS, ObjectView, Panel, PatchView, Sheet
from recon_worker.reconstruction.stitching import canvas_positions
from recon_worker.snapshot.artifact import GALLERY, SCALES, Artifact, Failure
from recon_worker.snapshot.records import Scan, Snapshot
from recon_worker.system.errors import is_shortage

_T = TypeVar("_T")
_CARD_PX, _LARGEST_CARD_PX = 256, 1024
"""Least and largest side of an image card: MLflow does not enlarge small pictures, and shows large ones small."""
_DIFFRACTION = ("r_factor", "mean_pattern_r_factor", "deviance", "mean_pattern_deviance")
_DESCRIBED = (
    *("phase_correlation", "amp_correlation", "frc_cutoff_half", "frc_resolution_half_nm"),
    *("half_data_frc_cutoff", "half_data_frc_resolution_nm", *_DIFFRACTION),
)
"""Numbers in the run's description, where there are such."""


def render(
    scan: Scan,
    snapshot: Snapshot,
    history: History,
    on_computed: Callable[[str], None] = lambda _: None,
    refined: Sequence[RefinedObject] = (),
) -> Iterator[Artifact | Failure]:
    """Make the artifacts of a snapshot, one after the other. What fails is reported, and the rest goes on.

    Args:
        scan: The run's scan.
        snapshot: What to render.
        history: What earlier epochs left; this one is added to it.
        on_computed: Called with "stitched", or a patch's folder, when that is computed and only its pictures are left.
        refined: See `Panels`.

    Raises:
        Exception: The machine is short of something (`shortages`): the snapshot is to be rendered again, as a whole.
    """
    folder = f"epoch_{snapshot.epoch:0{scan.epoch_digits}d}"
    shown: list[Shown] = []
    for name, make in Panels(scan, snapshot, history.scales, refined).planned():
        made = _attempt(f"{folder}/{name}", make)
        on_computed(name)
        if isinstance(made, Failure):
            yield made
            continue
        shown.extend(made)
        for one in made:
            yield from _files_of(scan, snapshot, folder, one)
    if shown:
        sheet = _sheet(scan, snapshot, folder, [one.compared for one in shown])
        yield from _files_of_epoch(scan, snapshot, sheet)
        yield from _files_of_run(sheet, history)


def finish(history: History) -> Iterator[Artifact | Failure]:
    """What is made once, when no more snapshots come. Raises like `render`."""
    animation = _attempt("recon_log/evolution.gif", history.evolution)
    if isinstance(animation, Failure):
        yield animation
    elif animation is not None:
        yield Artifact("recon_log/evolution.gif", animation)


def _attempt(path: str, make: Callable[[], _T]) -> _T | Failure:
    try:
        with np.errstate(all="ignore"):  # NaN and infinity are shown, not warned about
            return make()
    except Exception as error:  # one picture must not cost the others
        if is_shortage(error):
            raise
        return Failure(path, f"{type(error).__name__}: {error}")


def _made(path: str, encode: Callable[[], bytes]) -> Artifact | Failure:
    data = _attempt(path, encode)
    return data if isinstance(data, Failure) else Artifact(path, data)


def _files_of(scan: Scan, snapshot: Snapshot, folder: str, one: Shown) -> Iterator[Artifact | Failure]:
    """The files in the folder of an object or a patch."""
    place = f"{folder}/{one.view.name}"
    for kind, panel in one.view.panels():
        yield _made(f"{place}/{kind}.png", partial(encode_panel, panel))
    brightest = one.view.amp_pred.value_range[1]
    yield _made(
        f"{place}/complex.png",
        lambda: encode_complex_png(one.predicted, amplitude_range=(0, brightest), scanned=one.scanned),
    )
    if scan.arrays_format != "none" and one.number is not None:
        arrays = partial(_arrays, scan, snapshot, one, one.number)
        yield _made(f"{place}/arrays.{scan.arrays_format}", lambda: ENCODERS[scan.arrays_format](arrays()))


def _arrays(scan: Scan, snapshot: Snapshot, one: Shown, number: int) -> ObjectArrays:
    assert scan.geometry is not None
    assert one.coverage is not None
    return ObjectArrays(
        object=one.predicted,
        coverage=one.coverage,
        ground_truth=one.truth,
        positions_px=canvas_positions(scan.geometry, number),
        pixel_size_m=scan.pixel_size_m,
        epoch=snapshot.epoch,
        step=snapshot.step,
    )


def _sheet(scan: Scan, snapshot: Snapshot, folder: str, views: Sequence[ObjectView]) -> Sheet:
    patches = tuple(view for view in views if isinstance(view, PatchView))
    means = _means(patches)
    if len(patches) < len(views):  # the same numbers of a whole object say more, and would stand beside them
        means = {name: means[name] for name in _DIFFRACTION if name in means}
    return Sheet(
        epoch=snapshot.epoch,
        step=snapshot.step,
        folder=folder,
        objects=tuple(view for view in views if not isinstance(view, PatchView)),
        patches=patches,
        metrics=means,
        pixel_size_m=scan.pixel_size_m,
    )


def _means(patches: Sequence[PatchView]) -> dict[str, float]:
    """Mean of each number over the patches that have it; without the fitted alignments, whose means say nothing."""
    every = [patch.metrics for patch in patches]
    values = {name: [one[name] for one in every if name in one and np.isfinite(one[name])] for name in METRICS}
    return {name: float(np.mean(found)) for name, found in values.items() if found and not name.startswith("fit_")}


def _files_of_epoch(scan: Scan, snapshot: Snapshot, sheet: Sheet) -> Iterator[Artifact | Failure]:
    """The summary, the image cards, the numbers and the description."""
    summary = _made(f"{sheet.folder}/summary.png", lambda: summary_png(sheet))
    yield summary
    if isinstance(summary, Artifact):
        yield Artifact(card_name(sheet.folder, "summary", sheet.step), summary.data)
    for view in sheet.objects:
        for kind, panel in (("amp", view.amp_pred), ("phase", view.phase_pred)):
            yield _made(card_name(sheet.folder, f"{view.name}_{kind}", sheet.step), partial(_card, panel))
    numbers = Numbers(step=sheet.step, time_ms=int(1000 * snapshot.created_unix_s), values=_metrics(sheet))
    if numbers.values:
        yield Artifact(metrics_name(sheet.folder), numbers.to_json())
    if scan.description and isinstance(summary, Artifact):
        yield Artifact(DESCRIPTION_NAME, _latest(sheet).to_json())


def _card(panel: Panel) -> bytes:
    """The picture, enlarged by a whole factor to at least 256 px, or averaged over squares to at most 1024 px."""
    small = shrunk(panel, block_to_fit(panel.values.shape, _LARGEST_CARD_PX))
    with Image.open(io.BytesIO(encode_panel(small))) as image:
        factor = -(-_CARD_PX // max(image.size))
        enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    enlarged.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _metrics(sheet: Sheet) -> dict[str, float]:
    """The numbers by their name in MLflow; those that cannot be had are left out."""
    groups = {view.name: view.metrics for view in sheet.objects} | {"patches": _means(sheet.patches)}
    return {
        f"recon/{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if np.isfinite(value)
    }


def _latest(sheet: Sheet) -> Latest:
    values = {**sheet.metrics, **(sheet.objects[0].metrics if sheet.objects else {})}
    shown = {metric_label(name).label: metric_value(name, values[name]) for name in _DESCRIBED if name in values}
    return Latest(title=f"{sheet.label}, step {sheet.step}", summary=f"{sheet.folder}/summary.png", values=shown)


def _files_of_run(sheet: Sheet, history: History) -> Iterator[Artifact | Failure]:
    """What all epochs share, brought up to date."""
    added = _attempt(f"recon_log/{GALLERY}", partial(history.add, sheet))
    yield added if isinstance(added, Failure) else _made(f"recon_log/{GALLERY}", history.gallery)
    scales = history.unpublished_scales()
    if scales is not None:
        yield Artifact(f"recon_log/{SCALES}", scales)
