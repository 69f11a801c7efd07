"""The training process's side of the worker: accepts snapshots, and keeps a worker process running and fed.

Runs in the training process on global rank zero. It may start processes and threads, hold signals, allocate shared
memory and write to the spool; it does not load torch, and only `InlineBackend` renders or talks to MLflow.

    backend         `ReconBackend`, the interface that the callback uses
    inline_backend  `InlineBackend`, which implements it without a worker
    recon_worker    `ReconWorker`, the backend with a worker: the order of launch, start, submit, flush and close
    snapshot_queue  `SnapshotQueue`: every snapshot's state, the overflow policy, retries
    job             `Job`: one snapshot on its way
    slot_memory     `SlotMemory`: where waiting snapshots lie, in shared memory or in files
    supervisor      `Supervisor`: the thread that feeds and replaces the worker
    process         `WorkerProcess`: one worker process and its pipe
    run_folder      the run's folder in the spool, at the start and at the end
    ledger          `Ledger`: the fate of every snapshot, in numbers
    depth_advice    the queue depth that would have been enough; the table of events
    signals         `HeldSignals`: delays signals during an operation
"""
