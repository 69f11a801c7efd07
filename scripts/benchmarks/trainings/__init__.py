"""Complete training runs of the benchmarks `whole_run.py` and `gpu.py`, with and without logged reconstructions.

    case        settings and results of one training run
    network     small and full networks
    scan        a scan as tensors, as another project would read it
    reference   case a: the reference training, ptycho_torch
    module      case b: a LightningModule whose validation returns nothing
    loop        case c: a plain PyTorch loop with ReconLogger

Each training imports what it needs when it runs: the imports belong to the measured time.
"""
