"""Reference training of a ptychography network in PyTorch Lightning: data, model, physics, workflows."""
