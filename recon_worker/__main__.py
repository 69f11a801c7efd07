"""`python -m recon_worker` is `recon-worker`."""

import sys

from recon_worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
