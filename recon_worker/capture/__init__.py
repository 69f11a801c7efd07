"""WHAT to log: predictions of a network -> the arrays of a snapshot. Runs in the training process, on every rank.

Requires torch but not Lightning: any training loop can use it, with a backend from `client`.

    plan              which samples are logged, and in which rows of a snapshot
    placement         where the samples lie in the object, and the true object: what the callers use of the next five
    positions         records of positions; checks of what the user passes
    position_sources  positions in metadata, items and containers
    ground_truth      true objects, passed or found, and patches cut from them
    plausibility      unit, axis order and reach of positions
    nesting           looks through Subset, ConcatDataset and wrappers
    capture           fills the arrays of one snapshot, or of one rank's shard, batch by batch
    copying           copies from the network's device into these arrays
    gathering         sends the ranks' rows to rank zero
    logged_run        state of one rank during a logged run: interval and current capture
"""
