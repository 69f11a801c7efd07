"""`PtychoReconLoggingCallback`, where the design has it; it lives in `recon_worker.lightning`."""

from recon_worker.lightning.callback import PtychoReconLoggingCallback

__all__ = ["PtychoReconLoggingCallback"]
