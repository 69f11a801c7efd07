"""`python -m recon_worker` is `recon-worker`."""

import sys

from recon_worker.system.launcher import after_standard_library

if __name__ == "__main__":
    sys.path[:] = after_standard_library(sys.path)  # a user's queue.py in this folder is none of ours
    from recon_worker.cli.main import main

    sys.exit(main())
