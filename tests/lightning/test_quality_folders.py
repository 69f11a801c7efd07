"""Folders of `ReconQuality`: reached through links, and several in one Trainer."""

import pytest

from recon_worker.lightning import ReconQuality
from tests.lightning.quality_training import kept, train

pytestmark = [pytest.mark.timeout(110), pytest.mark.usefixtures("plain_sheets")]


@pytest.mark.parametrize(
    ("dirpath", "start"),
    [
        ("real", "link/recon-epoch=001.ckpt"),
        ("link", "real/recon-epoch=001.ckpt"),
        ("real", "last.ckpt"),
    ],
)
def test_the_checkpoint_that_is_resumed_stays_if_a_path_has_a_link(tracking, tmp_path, dirpath, start):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "last.ckpt").symlink_to("real/recon-epoch=001.ckpt")
    first = train(tracking, [0.5], ReconQuality(dirpath=tmp_path / dirpath))
    train(
        tracking, [0.5, 0.3, 0.2], ReconQuality(dirpath=tmp_path / dirpath), resume=str(tmp_path / start),
        logger=tracking.logger(run_id=first.logger.run_id),
    )  # fmt: skip

    assert kept(tmp_path / "real") == [1, 3]


def test_two_metrics_have_a_folder_each(tracking, tmp_path):
    second = ReconQuality("recon/patches/phase_mae_rad", dirpath=tmp_path / "phase")
    first = ReconQuality(dirpath=tmp_path / "ssim")
    trainer = train(tracking, [0.5, 0.1, 0.3], first, callbacks=[second])
    trainer.save_checkpoint(tmp_path / "both.ckpt")

    assert kept(tmp_path / "ssim") == kept(tmp_path / "phase") == [2]
