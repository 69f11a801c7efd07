"""Which checkpoints are kept, by metrics that arrive in any order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.lightning.ranking import Ranking

NUMBERS = st.one_of(st.sampled_from([0.1, 0.2, 0.3, math.nan]), st.floats(0, 1))


def ranking(numbers, save_top_k=1, **settings):
    """A ranking whose epochs 1, 2, ... have these numbers; None: not arrived."""
    known = {epoch: number for epoch, number in enumerate(numbers, 1) if number is not None}
    paths = {epoch: f"{epoch}.ckpt" for epoch in range(1, len(numbers) + 1)}
    return Ranking(save_top_k=save_top_k, paths=paths, numbers=known, **{"lower_is_better": False} | settings)


def kept(one, awaited=()):
    return sorted(one.paths.keys() - one.surplus(awaited))


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.integers(1, 3), st.data())
def test_what_is_kept_does_not_depend_on_when_and_in_which_order_numbers_arrive(numbers, save_top_k, data):
    late = ranking([None] * len(numbers), save_top_k)
    for epoch in data.draw(st.permutations(list(late.paths))):
        late.numbers[epoch] = numbers[epoch - 1]
        for surplus in late.surplus(late.without_number):
            late.paths[surplus] = ""

    left = [epoch for epoch, path in late.paths.items() if path]
    assert left == kept(ranking(numbers, save_top_k))
    assert len(left) == min(save_top_k, len(numbers))


@pytest.mark.parametrize(
    ("numbers", "settings", "expected"),
    [
        ([0.1, 0.3, 0.2], {}, [2]),
        ([0.1, 0.3, 0.2], {"lower_is_better": True}, [1]),
        ([0.3, 0.3, 0.3], {}, [1]),  # the earlier of equal ones
        ([math.nan, 0.1, math.nan], {}, [2]),
        ([math.nan, math.nan], {}, [2]),  # none is defined: the last
        ([0.3, 0.1, None], {}, [1, 3]),  # the last one could be the best
        ([0.3, None, 0.1], {}, [1]),
        ([None, None, None], {}, [3]),
        ([0.1, 0.2, 0.3], {"save_top_k": -1}, [1, 2, 3]),
    ],
)
def test_the_best_are_kept_and_the_last_one_if_it_cannot_be_compared(numbers, settings, expected):
    assert kept(ranking(numbers, **settings)) == expected


def test_a_checkpoint_is_kept_while_its_number_is_awaited():
    assert kept(ranking([0.3, None, None, 0.1]), awaited=[2, 3]) == [1, 2, 3]


def test_the_best_epoch_is_one_whose_checkpoint_is_there():
    one = ranking([0.3, 0.1, math.nan])
    assert (one.best, one.without_number) == (1, [])

    one.paths[1] = ""
    assert one.best == 2
    assert ranking([None, math.nan]).best is None


@pytest.mark.parametrize(
    ("numbers", "stagnates"),
    [
        ([0.1, 0.3, 0.2], False),
        ([0.1, 0.3, 0.2, 0.3], True),  # equal is no improvement
        ([0.3, None, 0.2], False),  # one has not arrived
        ([0.3, math.nan, 0.2], True),
        ([0.1, 0.2, 0.3], False),
        ([], False),
        ([math.nan, math.nan, math.nan], False),
    ],
)
def test_a_training_stagnates_after_two_numbers_that_are_no_better(numbers, stagnates):
    assert ranking(numbers).stagnates(2) is stagnates
