"""The tests. Programs that import from here collect garbage seldom: what they import first is a million objects."""

import gc

gc.set_threshold(50_000)
