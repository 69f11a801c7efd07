"""What a Lightning Trainer says about the data that is logged and how far the training is."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import CombinedLoader

from recon_worker.lightning.dataset import NoSamplesError, UnusableDataError, dataset_length
from recon_worker.system.messages import message_log

_log = message_log(__name__)


def mlflow_logger(trainer: Trainer) -> MLFlowLogger | None:
    """The first of its loggers that is one."""
    return next((one for one in trainer.loggers if isinstance(one, MLFlowLogger)), None)


def completed_epochs(trainer: Trainer) -> int:
    """Epochs whose training batches are all done, while validation runs."""
    return max(1, trainer.current_epoch + int(trainer.is_last_batch))


def set_up_validation_data(trainer: Trainer) -> None:
    """Make the validation loaders, on every rank: Lightning makes them late if the first epoch has no validation."""
    if trainer.enable_validation and trainer.val_dataloaders is None:
        loop = trainer.fit_loop.epoch_loop.val_loop
        trainer.validating = True
        try:
            loop.setup_data()
        except BaseException:
            loop._combined_loader = None  # when a validation is due, Lightning makes them again, and raises this itself
            raise
        finally:
            trainer.training = True


def choose_data(trainer: Trainer) -> tuple[bool, int]:
    """Whether the training set is logged, else the first validation set, and how many samples it has.

    Raises:
        UnusableDataError: Neither can be logged.
    """
    reason = ""
    if trainer.enable_validation:
        try:
            return False, dataset_length(logged_loader(trainer, from_training_set=False))
        except NoSamplesError:
            pass
        except UnusableDataError as error:
            reason = str(error)
    try:
        length = dataset_length(logged_loader(trainer, from_training_set=True))
    except UnusableDataError as error:
        raise UnusableDataError(f"validation: {reason or 'no samples.'} Training: {error}") from error
    found = f"The validation set cannot be logged: {reason}" if reason else "There is no validation set:"
    _log.warning("%s %seconstructions are logged from the training set.", found, "R" if reason else "r")
    return True, length


def logged_loader(trainer: Trainer, *, from_training_set: bool) -> object:
    """The first loader; None: there is none."""
    loaders = trainer.train_dataloader if from_training_set else trainer.val_dataloaders
    if loaders is None or (isinstance(loaders, (list, tuple, dict)) and not loaders):
        return None
    return next(iter(CombinedLoader(loaders).flattened), None)


def validation_reach(trainer: Trainer, loader: object, length: int) -> int:
    """How many samples, counted from the first of `length`, a validation limited by `limit_val_batches` predicts."""
    batches = trainer.num_val_batches[0]
    if batches == float("inf") or batches >= _batches_of(loader):
        return length
    return min(length, int(batches) * (getattr(loader, "batch_size", None) or 1) * trainer.world_size)


def _batches_of(loader: Any) -> float:  # noqa: ANN401
    try:
        return len(loader)
    except Exception:  # whatever a loader of unknown length raises
        return float("inf")
