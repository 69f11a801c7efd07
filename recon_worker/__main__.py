"""Runs `recon-worker` as `python -m recon_worker`."""

import sys

from recon_worker.system.launcher import after_standard_library

if __name__ == "__main__":
    sys.path[:] = after_standard_library(sys.path)  # a `queue.py` in the working directory must not shadow it
    from recon_worker.cli.main import main

    sys.exit(main())
