"""The worker process. Renders and uploads during training; loads no torch.

loop       the process: start, message loop, orderly end if the training process dies
worker     one run: snapshots -> outbox -> uploader
channel    messages to and from the training process
priority   low CPU priority while training runs
watchdog   saves snapshots and ends the process after the training process has died
"""
