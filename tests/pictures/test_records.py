"""Metrics, image cards and the description have distinct names in the outbox."""

import pytest

from recon_worker.pictures.records import (
    DESCRIPTION_NAME,
    LATEST,
    Card,
    Description,
    Metrics,
    card_name,
    card_of,
    is_file,
    is_metrics,
    merged_description,
    metrics_name,
)
from recon_worker.spool.outbox import epoch_of, is_artifact_name

NUMBERS, CARD = metrics_name("epoch_05"), card_name("epoch_05", "stitched_amp", 165)
LATEST_CARD = card_name("epoch_05", LATEST, 0, 1796)
FILES = ("epoch_05/summary.png", "epoch_05/stitched/arrays.h5", "recon_log/gallery.html", "recon_log/events.csv")


def test_names_say_what_waits_and_are_names_of_the_outbox():
    assert is_metrics(NUMBERS)
    assert card_of(CARD) == Card("recon/stitched_amp", 165)
    assert card_of(LATEST_CARD) == Card("recon/latest", 0, 1796)
    assert all(is_file(name) and card_of(name) is None for name in FILES)
    assert not any(map(is_file, (NUMBERS, CARD, LATEST_CARD, DESCRIPTION_NAME)))
    assert all(map(is_artifact_name, (*FILES, NUMBERS, CARD, LATEST_CARD, DESCRIPTION_NAME)))


@pytest.mark.parametrize(
    "name",
    ["epoch_05/../x.png", "cards/epoch_05/../../a.step_1.png", "images/a.png", "recon_log/x.html", "epoch_05/x.png",
     "metrics/epoch_05.json/..", "epoch_05/patch_01/arrays.exe", "description/x.json",
     "cards/epoch_05/a.step_1.time_x.png"],
)  # fmt: skip
def test_other_names_are_refused(name):
    assert not is_artifact_name(name)


def test_the_epoch_of_a_name_and_none_for_the_whole_run():
    assert [epoch_of(name) for name in (NUMBERS, CARD, LATEST_CARD, *FILES[:2])] == [5] * 5
    assert epoch_of("epoch_00/summary.png") == 0
    assert epoch_of("recon_log/gallery.html") == epoch_of(DESCRIPTION_NAME) == float("inf")


def test_metrics_and_description_survive_json():
    numbers = Metrics(step=3, time_ms=5, values={"recon/a": 0.1})
    latest = Description(title="Epoch 5", summary="epoch_05/summary.png", values={"phase MAE": "0.1 rad"})

    assert Metrics.from_json(numbers.to_json()) == numbers
    assert Description.from_json(latest.to_json()) == latest


def _latest(epoch, **more):
    summary, values = f"epoch_0{epoch}/summary.png", {"phase MAE": "0.1 rad"}
    return Description(title=f"Epoch {epoch}", summary=summary, values=values, time_ms=1000 * epoch, **more)


def test_an_empty_description_shows_the_metrics_above_the_picture():
    text = merged_description("", _latest(5), "abc", "7")

    assert "![Epoch 5](get-artifact?path=epoch_05%2Fsummary.png&run_uuid=abc)" in text
    assert text.index("phase MAE **0.1 rad**") < text.index("![Epoch 5]")
    assert "#/experiments/7/runs/abc" in text


@pytest.mark.parametrize("mine", ["", "My notes.", "Table:\n\n| a |\n|---|\n"])
def test_text_of_the_user_is_kept_and_our_part_is_brought_up_to_date(mine):
    first = merged_description(mine, _latest(5), "abc", "7")
    second = merged_description(first + "\nMore of mine.", _latest(6), "abc", "7")

    assert second == merged_description(mine, _latest(6), "abc", "7") + "\nMore of mine."
    assert second.startswith(mine)
    assert "Epoch 5" not in second


def test_by_default_only_an_empty_description_is_filled():
    first = merged_description(" \n", _latest(5, beside_text=False), "abc", "7")

    assert "Epoch 5" in first
    assert "Epoch 6" in merged_description(first, _latest(6, beside_text=False), "abc", "7")
    assert merged_description("My notes.", _latest(5, beside_text=False), "abc", "7") == "My notes."


@pytest.mark.parametrize("beside_text", [False, True])
def test_a_section_that_the_user_has_edited_stays_as_it_is(beside_text):
    first = merged_description("", _latest(5, beside_text=beside_text), "abc", "7")
    edited = first.replace("phase MAE", "my best phase MAE")
    rewrapped = first.replace("\n\n", "\r\n\r\n")

    assert merged_description(edited, _latest(6, beside_text=beside_text), "abc", "7") == edited
    assert "Epoch 6" in merged_description(rewrapped, _latest(6, beside_text=beside_text), "abc", "7")


def test_an_older_snapshot_does_not_replace_a_newer_one():
    newer = merged_description("", _latest(6), "abc", "7")

    assert merged_description(newer, _latest(5), "abc", "7") == newer


def test_a_section_of_an_earlier_version_is_brought_up_to_date():
    old = "<!-- recon-log: written by the training; text outside is kept -->\n\nEpoch 4\n\n<!-- recon-log end -->"

    assert merged_description(f"Mine.\n\n{old}", _latest(5), "abc", "7") == "Mine.\n\n" + merged_description(
        "", _latest(5), "abc", "7"
    )


def test_numbers_are_in_lines_of_four():
    values = {f"m{k}": str(k) for k in range(6)}
    text = merged_description(
        "", Description(title="Epoch 5", summary="epoch_05/summary.png", values=values), "abc", "7"
    )

    assert "m0 **0** · m1 **1** · m2 **2** · m3 **3**\nm4 **4** · m5 **5**\n\n![" in text
