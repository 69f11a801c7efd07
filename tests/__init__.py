"""The tests. Programs that import from here collect garbage seldom: what they import first is a million objects."""

import gc

USUAL_THRESHOLD = gc.get_threshold()

gc.set_threshold(50_000)
