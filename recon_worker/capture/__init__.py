"""WHAT to log: predictions of a network -> the arrays of a snapshot. Runs in the training process, on every rank.

Requires torch but not Lightning: any training loop can use it, with a backend from `client`.

    plan         which samples are logged, and in which rows of a snapshot
    capture      fills the arrays of one snapshot, or of one rank's shard, batch by batch
    copying      copies from the network's device into these arrays
    gathering    sends the ranks' rows to rank zero
    logged_run   state of one rank during a logged run: interval and current capture
"""
