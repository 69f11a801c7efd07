"""Stitches object patches into whole objects and measures their errors. Pure array functions.

Runs in the worker process, and with the inline backend in the training process. scipy and scikit-image are imported
inside the functions that need them. Formulas: `docs/reference/formulas.md`.

    stitching             patches -> object, on a grid or by position
    patches               object -> patch, between pixels
    alignment             removes the ambiguities of ptychography before a comparison
    comparison            errors relative to the truth; agreement of two halves of a scan
    metrics               MAE, PSNR, SSIM, correlation, robust value ranges
    alerts                problems of the reconstructions of a run, recognised by their metrics
    diffraction_metrics   R-factor and Poisson deviance of diffraction patterns
    fourier               sub-pixel shift and Fourier ring correlation
    slices                row blocks and centres of large images
"""
