"""The PtychoPINN network, its physics, losses and LightningModule."""
