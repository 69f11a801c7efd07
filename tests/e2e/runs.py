"""Settings of a short training, and checks of its artifacts."""

import numpy as np

OBJECT = {"amp_pred", "amp_gt", "amp_error", "phase_pred", "phase_gt", "phase_error"}

DIFFRACTION = {"diff_obs_logI", "diff_pred_logI", "diff_error_logI"}


def run_settings(train, test, output_dir, mlflow_database, **more):
    return {
        "train_data_file": train,
        "test_data_file": test,
        "output_dir": output_dir,
        "nepochs": 2,
        "n_filters_scale": 1,
        "mlflow_tracking_uri": mlflow_database,
        "mlflow_experiment": f"e2e-{output_dir}",
        "recon_log_every_n_epochs": 1,
        "recon_log_strict": True,
        "accelerator": "cpu",
        **more,
    }


def artifacts(output_dir):
    (root,) = (output_dir / "mlruns").glob("*/artifacts")
    return root, {str(p.relative_to(root)) for p in root.rglob("*.png")}


def assert_shows(image, values):
    low, high = image.value_range
    assert image.values.shape == values.shape
    np.testing.assert_allclose(image.values, np.clip(values, low, high), atol=(high - low) / 251 * 0.51)
