"""The record that crosses from the training process to the worker, and its bytes. Loads NumPy only; touches no server.

Both processes run this code.

    array_types   aliases of NumPy array types; object patches computed on access
    choices       values of settings that both processes share; loads nothing
    geometry      how the samples of a scan are stitched, and where they lie in the object
    records       `Scan`, once per run, and `Snapshot`, once per logged epoch, with its memory layout
    codec         both as bytes, for shared memory and for the spool
    slots         shared memory that both processes map
    artifact      a rendered file on its way to MLflow
"""
