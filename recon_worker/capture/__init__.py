"""WHAT to log: predictions of a network -> the arrays of a snapshot. Runs in the training process, on every rank.

Needs torch and nothing of Lightning: any training loop can use it, with a backend of `client`.

    plan         which samples are logged, and to which rows of a snapshot they go
    capture      fills the arrays of one snapshot, or of one rank's shard, batch by batch
    copying      copies from the network's device into these arrays
    gathering    sends the ranks' rows to rank zero
    logged_run   state of a rank while a run is logged: the cadence and the current capture
"""
