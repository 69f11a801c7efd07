"""Re-exports `PtychoReconLoggingCallback` from `recon_worker.lightning`."""

from recon_worker.lightning import PtychoReconLoggingCallback

__all__ = ["PtychoReconLoggingCallback"]
