"""WHAT to log: predictions of a network -> the arrays of a snapshot. Runs in the training process, on every rank.

Requires torch but not Lightning: any training loop can use it, with a backend from `client`.

    recon_logger  `ReconLogger`, for training loops without Lightning
    shot          takes the predictions of one epoch from a training loop
    given_scan    a scan given as arrays
    dataset       reads the constant data of a run from its dataset
    adapters      translate dataset items, network arguments and network outputs
    placement     where the samples lie in the object, and the true object
    plan          which samples are logged, when, and in which rows of a snapshot
    capture       fills the arrays of one snapshot, batch by batch
    copying       copies from the network's device into these arrays
    gathering     sends the ranks' rows to rank zero
    logged_run    state of one rank during a logged run: interval and current capture
    announcement  the message at the start
    errors        errors of the logging, and the guard that keeps them from ending training
"""
