"""The tests. Importing this package makes garbage collections rare: the libraries first create a million objects."""

import gc

USUAL_THRESHOLD = gc.get_threshold()

gc.set_threshold(50_000)
