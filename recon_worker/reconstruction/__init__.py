"""From object patches to whole objects and their errors. Pure functions of arrays: no files, no processes, no server.

The worker runs this code, and the training process too when it logs without a worker. scipy and scikit-image are
imported inside the functions that need them. Formulas: `docs/formulas.md`.

    stitching             patches -> object, on a grid or by position
    alignment             removes the ambiguities of ptychography before a comparison
    comparison            errors of an object against the truth, or between two halves of a scan
    metrics               MAE, PSNR, SSIM, correlation, robust value ranges
    diffraction_metrics   R-factor and Poisson deviance of diffraction patterns
    fourier               sub-pixel shift and Fourier ring correlation
    slices                row blocks and centres of large images
"""
