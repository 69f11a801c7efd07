"""`PtychoReconLoggingCallback` under the path of the design; the implementation is in `recon_worker.lightning`."""

from recon_worker.lightning import PtychoReconLoggingCallback

__all__ = ["PtychoReconLoggingCallback"]
