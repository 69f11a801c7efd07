"""Renders arrays as pictures: PNG files, summary sheet, gallery and animation; builds the records for MLflow.

Runs in the worker process, in `recon-worker`, and with the inline backend in the training process. Pure: arrays in,
bytes out; no file access, no processes, no server.

    artifacts         `render` and `finish`: named artifacts of a snapshot and of a run
    snapshot_figures  stitching, comparison with the ground truth, figures and metrics of a snapshot
    figures           panels, figures and metrics of one epoch, as arrays
    colour_ranges     normalisation: ranges that are fixed once per run
    history           colour ranges and gallery entries of earlier epochs
    png               a panel as a palette PNG whose pixels map back to values
    complex_png       a complex object as one picture: phase is hue, amplitude is lightness
    arrays            a stitched object as NPZ or CXI
    summary           the summary sheet of an epoch
    layout            pages of text and panels with colour bars; downsampling
    labels            names and formats of epochs, metrics and lengths
    records           metrics, image cards and the run description
    gallery/          HTML gallery and animation of all epochs
    tiles/            large objects as tiles, and the page that shows them
"""
