"""Training side: data, model, physics and workflow of a ptychography network in PyTorch Lightning."""
