"""A headless Chromium, and a real MLflow server that shows a finished run."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tenacity

from ptycho_torch.cli import resolve
from ptycho_torch.workflows.components import run_training
from tests.browser.gallery_page import GalleryPage
from tests.paths import REPOSITORY

OUTPUT = REPOSITORY / "test_output" / "browser"
"""Folder of the screenshots."""


@dataclass(frozen=True)
class FinishedRun:
    """A short training, logged with the settings of a user."""

    database: str
    experiment_id: str
    run_id: str
    artifacts: Path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    scan, database = folder / "scan.npz", f"sqlite:///{folder}/mlflow.db"
    size = ("--N", "64", "--object_size", "112", "--step", "14", "--nphotons", "1e6")
    simulate = [sys.executable, str(REPOSITORY / "scripts/simulate.py"), "raw", *size, "--output", str(scan)]
    subprocess.run(simulate, check=True, timeout=60, capture_output=True)
    files = {"train_data_file": scan, "test_data_file": scan, "output_dir": folder / "out"}
    logging = {"recon_log_every_n_epochs": 1, "recon_log_num_patches": 2, "recon_log_stitch": True}
    logging["recon_log_baseline"] = True
    more = {"nepochs": 2, "n_filters_scale": 1, "mlflow_tracking_uri": database, "recon_log_pixel_size": 28e-9}
    result = run_training(resolve("raw", {**files, **logging, **more, "accelerator": "cpu"}))
    logger = result.trainer.logger
    (artifacts,) = folder.glob("out/mlruns/*/artifacts")
    return FinishedRun(database, logger.experiment_id, logger.run_id, artifacts)


@pytest.fixture(scope="session")
def server(finished_run, browser_paths, tmp_path_factory):
    """Starts an `mlflow server` for the run; returns its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", finished_run.database]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (tmp_path_factory.mktemp("server") / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_for(address, process)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def _wait_for(address, process):
    from urllib.error import URLError
    from urllib.request import urlopen

    refused = tenacity.retry_if_exception_type((URLError, OSError))
    for attempt in tenacity.Retrying(wait=tenacity.wait_fixed(0.2), stop=tenacity.stop_after_delay(60), retry=refused):
        with attempt:
            assert process.poll() is None, "the MLflow server has stopped"
            urlopen(f"{address}/health", timeout=5).close()


@pytest.fixture(scope="session")
def browser_paths():
    """Paths of the browser and its driver; skips the test if one is missing."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install '.[dev]'")
    browser, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium or its driver is not installed: .ci/install-browser (Debian, as root)")
    return browser, driver


@pytest.fixture
def chromium(browser_paths):
    """Starts browsers: chromium(width, height, dark=False) -> selenium's WebDriver."""
    from selenium import webdriver

    browser, driver = browser_paths
    started = []

    def start(width, height, *, dark=False):
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
        for argument in ("--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage", *root):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        one = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        started.append(one)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        one.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        one.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        return one

    yield start
    for one in started:
        one.quit()


@pytest.fixture
def gallery(chromium, tmp_path):
    """A gallery of known pictures, in a browser: gallery(width, height, dark=False, truth=True) -> GalleryPage."""

    def start(width=940, height=1450, *, dark=False, truth=True):
        return GalleryPage(chromium(width, height, dark=dark), tmp_path, truth=truth)

    return start


@pytest.fixture
def screenshot(request):
    """Keeps a screenshot under the test's name: screenshot(driver, "what")."""
    OUTPUT.mkdir(parents=True, exist_ok=True)

    def keep(driver, what):
        assert driver.save_screenshot(str(OUTPUT / f"{request.node.originalname.removeprefix('test_')}-{what}.png"))

    return keep
