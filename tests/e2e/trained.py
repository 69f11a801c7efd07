"""A short training, and reconstructions from its checkpoint."""

import pytest

from ptycho_torch.cli import resolve
from ptycho_torch.inference_cli import main
from ptycho_torch.workflows.components import run_training


class Training:
    """A training on the CPU, and its artifacts and metrics."""

    def __init__(self, kind, train, test, folder, database, **more):
        self.folder, self.checkpoint = folder, folder / "checkpoints" / "last.ckpt"
        settings = {
            "train_data_file": train,
            "test_data_file": test,
            "output_dir": folder,
            "n_filters_scale": 1,
            "batch_size": 4,
            "accelerator": "cpu",
            "mlflow_tracking_uri": database,
            "mlflow_experiment": str(folder),
            "recon_log_every_n_epochs": 1,
            "recon_log_stitch": True,
            "recon_log_num_patches": 2,
            "recon_log_baseline": False,
            "recon_log_strict": True,
        }
        self.result = result = run_training(resolve(kind, {**settings, **more}))
        logger = result.trainer.logger
        self._client, self._run_id, self._step = logger.experiment, logger.run_id, result.trainer.global_step
        (self.artifacts,) = (folder / "mlruns").glob("*/artifacts")

    def metrics(self):
        """Reconstruction metrics of the last epoch in MLflow."""
        names = [name for name in self._client.get_run(self._run_id).data.metrics if name.startswith("recon/")]
        last = {name: self._client.get_metric_history(self._run_id, name)[-1] for name in names}
        return {name: metric.value for name, metric in last.items() if metric.step == self._step}

    def files(self):
        """Content of the last epoch's artifacts by their path in its folder."""
        root = max(self.artifacts.glob("epoch_*"))
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def infer(checkpoint, scan, out, *more):
    files = ["--checkpoint", str(checkpoint), "--data_file", str(scan), "--output_dir", str(out)]
    return main([*files, "--accelerator", "cpu", *map(str, more)])


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        infer(*arguments)

    assert caught.value.code == 2
    return capsys.readouterr().err


def files_of(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
