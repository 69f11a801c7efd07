"""Renders a snapshot to named artifacts. Defines the files and their names; `snapshot_figures` defines their content.

    epoch_05/summary.png
    epoch_05/stitched/{amp,phase}_pred.png   {amp,phase}_gt.png  {amp,phase}_error.png  complex.png  arrays.npz or .h5
                                             misfit.png misfit.csv
    epoch_05/stitched_object_01/...          further objects
    epoch_05/stitched/*.dzi  *_files/...     large objects also as tiles (`tiles`)
    epoch_05/patch_272/...                   amp, phase and complex, and diff_{obs,pred,error}_logI.png
    recon_log/gallery.html  scales.json      of all epochs so far; replaced when they change
    recon_log/tiles.html                     the viewer of the tiles, if there are any
    recon_log/evolution.gif                  at the end

`reference` makes image cards of step 0 from the data known before training. MLflow's step slider starts there, and
without them every card would be blank until the slider is moved.

The `{amp,phase}_gt` and `{amp,phase}_error` pictures require a ground truth, `diff_obs` measured diffraction,
`diff_pred` a network that predicts diffraction, `diff_error` and `misfit` both. Metrics, image cards and, if enabled,
the run description are `records` for MLflow.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from recon_worker.pictures.arrays import ENCODERS, ObjectArrays
from recon_worker.pictures.complex_png import encode_complex_png, load_font
from recon_worker.pictures.figures import EpochFigures, Figure, downsampled, enlarged, levels_of
from recon_worker.pictures.gallery.evolution import evolution_gif
from recon_worker.pictures.history import History, logged_metrics, mean_metrics
from recon_worker.pictures.labels import epoch_label, metric_label, metric_value
from recon_worker.pictures.png import Panel, encode_png, encode_rgb, palette, to_indices
from recon_worker.pictures.records import (
    DESCRIPTION_NAME,
    LATEST,
    REFERENCE,
    Description,
    Metrics,
    card_name,
    metrics_name,
)
from recon_worker.pictures.snapshot_figures import Reconstruction, RefinedObject, SnapshotFigures, reference_figures
from recon_worker.pictures.summary import latest_png, reference_png, summary_png
from recon_worker.pictures.tiles.page import tiles_html
from recon_worker.pictures.tiles.pyramid import SMALLEST_PX, TiledPictures, dzi, tiles
from recon_worker.reconstruction.alerts import alerts
from recon_worker.reconstruction.stitching import canvas_positions
from recon_worker.snapshot.artifact import GALLERY, SCALES, TILES, Artifact, Failure
from recon_worker.snapshot.records import Scan, Snapshot
from recon_worker.system.errors import is_shortage
from recon_worker.system.handler_errors import raise_if_from_signal_handler

_T = TypeVar("_T")
_CARD_PX, _LARGEST_CARD_PX = 256, 1024
"""Bounds of an image card's longer side: MLflow does not enlarge small pictures and shrinks large ones."""
_NARROW = 4
"""Ratio of height and width of a card beyond which its caption runs downwards."""
_DIFFRACTION = ("r_factor", "mean_pattern_r_factor", "deviance", "mean_pattern_deviance")
_DESCRIBED = (
    *("phase_correlation", "amp_correlation", "frc_cutoff_half", "frc_resolution_half_nm"),
    *("half_data_frc_cutoff", "half_data_frc_half_period_nm", *_DIFFRACTION),
)
"""Metrics shown in the run description where available."""


def render(
    scan: Scan,
    snapshot: Snapshot,
    history: History,
    on_computed: Callable[[str], None] = lambda _: None,
    refined: Sequence[RefinedObject] = (),
) -> Iterator[Artifact | Failure]:
    """Yield the artifacts of a snapshot as they are made; a failed picture yields a `Failure` and the rest continues.

    Args:
        scan: Scan of the run.
        snapshot: Snapshot to render.
        history: History of earlier epochs; this epoch is added.
        on_computed: Called with the name of each picture group, such as "stitched", before its pictures are encoded.
        refined: Refined objects to show beside the predicted ones.

    Raises:
        Exception: The machine lacks a resource (`is_shortage`); render the whole snapshot again.
    """
    folder = f"epoch_{snapshot.epoch:0{scan.epoch_digits}d}"
    shown: list[Figure] = []
    drawn = SnapshotFigures(scan, snapshot, history.colour_ranges, refined, history.constant_panels(scan))
    for name, make in drawn.picture_groups():
        made = _attempt(f"{folder}/{name}", make)
        on_computed(name)
        if isinstance(made, Failure):
            yield made
            continue
        shown.extend(one.aligned for one in made)
        for one in made:
            yield from _picture_files(scan, snapshot, folder, one)
            if one.number is not None:
                yield from _tile_files(folder, one.raw, scan.tiles_from_px, history.tiled)
    if not shown:
        return
    figures = _epoch_figures(scan, snapshot, folder, shown)
    yield from _epoch_artifacts(scan, snapshot, figures, history)
    added = _attempt(f"recon_log/{GALLERY}", partial(history.add, figures))
    yield added if isinstance(added, Failure) else _made(f"recon_log/{GALLERY}", history.gallery)
    if history.tiled.pictures:
        yield _made(f"recon_log/{TILES}", partial(tiles_html, history.entries, history.tiled))
    scales = history.unpublished_scales()
    if scales is not None:
        yield Artifact(f"recon_log/{SCALES}", scales)


def reference(scan: Scan) -> Iterator[Artifact | Failure]:
    """Yield the image cards of step 0, made of the data known before training, if any. Raises like `render`."""
    figures = _attempt(f"cards/{REFERENCE}", partial(reference_figures, scan))
    if isinstance(figures, Failure):
        yield figures
    elif figures.figures():
        yield _made(card_name(REFERENCE, "summary", 0), partial(reference_png, figures))
        for figure in figures.objects:
            for name, panel in (("amp", figure.panels["amp_gt"]), ("phase", figure.panels["phase_gt"])):
                encode = partial(_card, panel, "ground truth")
                yield _made(card_name(REFERENCE, f"{figure.name}_{name}", 0), encode)


def finish(history: History) -> Iterator[Artifact | Failure]:
    """Yield the artifacts made once, after the last snapshot. Raises the same errors as `render`."""
    animation = _attempt("recon_log/evolution.gif", lambda: evolution_gif(history.entries))
    if isinstance(animation, Failure):
        yield animation
    elif animation is not None:
        yield Artifact("recon_log/evolution.gif", animation)


def _attempt(path: str, make: Callable[[], _T]) -> _T | Failure:
    try:
        with np.errstate(all="ignore"):  # NaN and infinity have their own colours
            return make()
    except Exception as error:  # one failed picture must not stop the others
        raise_if_from_signal_handler(error)
        if is_shortage(error):
            raise
        return Failure(path, f"{type(error).__name__}: {error}")


def _made(path: str, encode: Callable[[], bytes]) -> Artifact | Failure:
    data = _attempt(path, encode)
    return data if isinstance(data, Failure) else Artifact(path, data)


def _picture_files(scan: Scan, snapshot: Snapshot, folder: str, one: Reconstruction) -> Iterator[Artifact | Failure]:
    """Yield the files in the folder of an object or a patch."""
    root = f"{folder}/{one.raw.name}"
    for kind, panel in one.raw.panels.items():
        yield _made(f"{root}/{kind}.png", partial(encode_png, panel))
    brightest = one.raw.panels["amp_pred"].value_range[1]
    shown = partial(encode_complex_png, one.image.object, amplitude_range=(0, brightest), scanned=one.image.scanned)
    yield _made(f"{root}/complex.png", shown)
    if scan.arrays_format != "none" and one.number is not None:
        yield _made(f"{root}/arrays.{scan.arrays_format}", partial(_arrays, scan, snapshot, one, one.number))
    if one.raw.misfit is not None:
        yield _made(f"{root}/misfit.csv", one.raw.misfit.to_csv)


def _tile_files(folder: str, figure: Figure, from_px: int, tiled: TiledPictures) -> Iterator[Artifact | Failure]:
    """Yield the tiles of a large object, and note them in `tiled`. One picture at a time, to bound the memory."""
    kinds = tiled.to_cut(figure, from_px)
    for kind in kinds:
        yield Artifact(f"{folder}/{figure.name}/{kind}.dzi", dzi(figure.panels[kind]))
    for kind in kinds:
        root = f"{folder}/{figure.name}/{kind}_files"
        levels = _attempt(root, partial(levels_of, figure.panels[kind], SMALLEST_PX))
        if isinstance(levels, Failure):
            yield levels
            continue
        for name, tile in tiles(levels):
            yield _made(f"{root}/{name}", partial(encode_png, tile))
        tiled.add(figure.name, kind, f"{folder}/{figure.name}", levels)


def _arrays(scan: Scan, snapshot: Snapshot, one: Reconstruction, number: int) -> bytes:
    assert scan.geometry is not None
    arrays = ObjectArrays(
        object=one.image.object,
        coverage=one.image.coverage,
        ground_truth=one.truth,
        positions_px=canvas_positions(scan.geometry, number),
        pixel_size_m=scan.pixel_size_m,
        epoch=snapshot.epoch,
        step=snapshot.step,
    )
    return ENCODERS[scan.arrays_format](arrays.with_misfit(one.raw.misfit))


def _epoch_figures(scan: Scan, snapshot: Snapshot, folder: str, figures: Sequence[Figure]) -> EpochFigures:
    patches = tuple(figure for figure in figures if figure.index is not None)
    means = mean_metrics([patch.metrics for patch in patches])
    if len(patches) < len(figures):  # the other metrics are more meaningful for whole objects
        means = {name: means[name] for name in _DIFFRACTION if name in means}
    return EpochFigures(
        epoch=snapshot.epoch,
        step=snapshot.step,
        folder=folder,
        objects=tuple(figure for figure in figures if figure.index is None),
        patches=patches,
        metrics=means,
        pixel_size_m=scan.pixel_size_m,
    )


def _epoch_artifacts(
    scan: Scan, snapshot: Snapshot, figures: EpochFigures, history: History
) -> Iterator[Artifact | Failure]:
    """Yield the summary, the image cards, the metrics and the description."""
    summary = _made(f"{figures.folder}/summary.png", lambda: summary_png(figures))
    yield summary
    if isinstance(summary, Artifact):
        yield Artifact(card_name(figures.folder, "summary", figures.step), summary.data)
    time_ms = int(1000 * snapshot.created_unix_s)
    yield _made(card_name(figures.folder, LATEST, 0, time_ms), lambda: latest_png(figures))
    for figure in figures.objects:
        for name, panel in (("amp", figure.panels["amp_pred"]), ("phase", figure.panels["phase_pred"])):
            yield _made(card_name(figures.folder, f"{figure.name}_{name}", figures.step), partial(_card, panel))
    if logged := logged_metrics(figures.figures()):
        found = alerts(history.metrics() | {figures.epoch: logged})
        record = Metrics(
            step=figures.step,
            time_ms=time_ms,
            values=logged,
            alert=found.get(figures.epoch, ""),
            alerts="; ".join(f"epoch {epoch}: {text}" for epoch, text in found.items()),
        )
        yield Artifact(metrics_name(figures.folder), record.to_json())
    if scan.description is not False and isinstance(summary, Artifact):
        values = {**figures.metrics, **(figures.objects[0].metrics if figures.objects else {})}
        shown = [name for name in _DESCRIBED if name in values]
        described = {metric_label(name).label: metric_value(name, values[name]) for name in shown}
        title = f"{epoch_label(figures.epoch)}, step {figures.step}"
        yield Artifact(
            DESCRIPTION_NAME,
            Description(
                title=title,
                summary=summary.path,
                values=described,
                time_ms=time_ms,
                beside_text=scan.description is True,
            ).to_json(),
        )


def _card(panel: Panel, caption: str = "") -> bytes:
    """Encode a panel, enlarged by a whole factor to at least 256 px or averaged over squares to at most 1024 px.

    A caption is written into the picture, so that it cannot get lost.
    """
    small = downsampled(panel, math.ceil(max(panel.values.shape) / _LARGEST_CARD_PX))
    shown = enlarged(small, -(-_CARD_PX // max(small.values.shape)))
    if not caption:
        return encode_png(shown)
    image = Image.fromarray(palette(shown.colormap)[to_indices(shown)])
    return encode_rgb(np.asarray(_captioned(image, caption)))


def _captioned(image: Image.Image, caption: str) -> Image.Image:
    """Write a caption in white on black into the upper left corner, along the longer side of a narrow picture."""
    if image.height > _NARROW * image.width:
        turned = _captioned(image.transpose(Image.Transpose.ROTATE_90), caption)
        return turned.transpose(Image.Transpose.ROTATE_270)
    draw, pad_px = ImageDraw.Draw(image), 3
    font_px = min(max(12, min(image.size) // 16), image.height - 3 * pad_px)
    length = draw.textlength(caption, load_font(font_px)) + 2 * pad_px
    font = load_font(int(font_px * min(1.0, image.width / length)))
    box = draw.textbbox((pad_px, pad_px), caption, font)
    draw.rectangle((0, 0, box[2] + pad_px, box[3] + pad_px), fill="black")
    draw.text((pad_px, pad_px), caption, "white", font)
    return image
