"""The worker process. Renders and uploads beside the training; loads no torch.

loop       the process: start, message loop, end without the training process
worker     one run: snapshots -> outbox -> uploader
channel    messages to and from the training process
priority   low CPU priority while the training runs
watchdog   saves snapshots and ends the process when the training process is dead
"""
