"""WHERE the samples of a dataset lie in the object, and the true object.

samples        `place_samples`: what the user passes, else what the dataset has
sources        positions in metadata, items and containers of a dataset
positions      records of positions; checks of what the user passes
ground_truth   true objects, passed or found, and patches cut from them
plausibility   checks unit, axis order and reach of positions
nesting        looks through Subset, ConcatDataset and wrappers
unchanged      leaves datasets and random generators as they were
"""
