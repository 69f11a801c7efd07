"""Arrays to pictures: PNG files, the summary sheet, the gallery, the animation, and the records for MLflow.

Runs in the worker process, in `recon-worker`, and with the inline backend in the training process. Pure: arrays in,
bytes out; it opens no files, starts no processes and knows no server.

    artifacts         a snapshot to named artifacts: `render` and `finish`
    snapshot_figures  stitching, comparison with the ground truth, figures and metrics of a snapshot
    figures           panels, figures and metrics of one epoch, before anything is drawn
    colour_ranges     normalisation: ranges that are fixed once per run
    history           colour ranges and gallery entries of earlier epochs
    png               a panel as a palette PNG whose pixels map back to values
    complex_png       a complex object as one picture: phase is hue, amplitude is lightness
    arrays            a stitched object as NPZ or CXI
    summary           the summary sheet of an epoch
    layout            pages of text and panels with colour bars; downsampling
    labels            names and formats of epochs, metrics and lengths
    records           metrics, image cards and the run description
    gallery/          one HTML file, and one animation, of all epochs
"""
