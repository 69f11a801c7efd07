"""What a Lightning Trainer says about the data that is logged and how far the training is."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import CombinedLoader


def mlflow_logger(trainer: Trainer) -> MLFlowLogger | None:
    """The first of its loggers that is one."""
    return next((one for one in trainer.loggers if isinstance(one, MLFlowLogger)), None)


def completed_epochs(trainer: Trainer) -> int:
    """Epochs whose training batches are all done, while validation runs."""
    return max(1, trainer.current_epoch + int(trainer.is_last_batch))


def set_up_validation_data(trainer: Trainer) -> None:
    """Make the validation loaders, on every rank: Lightning makes them late if the first epoch has no validation."""
    if trainer.enable_validation and trainer.val_dataloaders is None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True


def logged_loader(trainer: Trainer) -> tuple[object, bool]:
    """The loader whose dataset is logged, and whether that is the training set."""
    validation = CombinedLoader(trainer.val_dataloaders or []).flattened if trainer.enable_validation else []
    if validation and dataset_length(validation[0]) > 0:
        return validation[0], False
    return next(iter(CombinedLoader(trainer.train_dataloader or []).flattened), None), True


def dataset_length(loader: object) -> int:
    """Samples in the loader's dataset; 0 if there is none that is addressed by index."""
    dataset: Any = getattr(loader, "dataset", None)
    return len(dataset) if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") else 0


def validation_reach(trainer: Trainer, loader: Any, from_training_set: bool) -> int:  # noqa: ANN401
    """How many samples, counted from the first, a validation limited by `limit_val_batches` predicts."""
    batches = float("inf") if from_training_set else trainer.num_val_batches[0]
    if batches >= len(loader):
        return len(loader.dataset)
    return int(batches) * (loader.batch_size or 1) * trainer.world_size
