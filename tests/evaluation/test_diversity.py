"""Distinct-n is the share of n-grams that are distinct; padding is no text, and no n-gram spans two responses."""

import pytest
import torch

from lit_align.evaluation.diversity import DistinctN


def distinct(rows: list[list[int]], n: int, width: int | None = None, pad: int = 0) -> float:
    metric = DistinctN(n)
    metric.update(*padded(rows, width, pad))
    return float(metric.compute())


def padded(rows: list[list[int]], width: int | None = None, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, torch.arange(width) < torch.tensor([[len(row)] for row in rows])


ROWS = [[1, 2, 1, 2], [2, 1], [3]]


@pytest.mark.parametrize(
    ("n", "share"),
    [
        (1, 3 / 7),
        (2, 2 / 4),  # 12 21 12 | 21
        (3, 2 / 2),  # 121 212
        (4, 1.0),
    ],
)
def test_shares_by_hand(n, share):
    assert distinct(ROWS, n) == pytest.approx(share)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 1, 2])
def test_padding_changes_nothing_even_where_it_looks_like_a_token(n, pad):
    assert distinct(ROWS, n, width=9, pad=pad) == pytest.approx(distinct(ROWS, n))


@pytest.mark.parametrize("width", [3, 8])
def test_where_there_is_no_n_gram_nothing_repeats(width):
    assert distinct([[1, 1], [1, 1, 1]], 4, width=width) == 1.0


def test_responses_shorter_than_an_n_gram_do_not_count():
    assert distinct([[1, 2, 3, 4, 1, 2, 3], [1, 2]], 3) == pytest.approx(4 / 5)


def test_the_order_of_responses_changes_nothing_but_that_of_tokens_does():
    assert distinct(ROWS[::-1], 2) == distinct(ROWS, 2)
    assert distinct([[1, 2], [2, 1]], 2) == 1.0
    assert distinct([[1, 2], [1, 2]], 2) == 0.5


def test_groups_are_seen_as_their_responses():
    ids, mask = padded([[1, 2, 1], [2, 1], [1, 2], [3, 3, 3]])
    metric = DistinctN(2)
    metric.update(ids.view(2, 2, 3), mask.view(2, 2, 3))
    assert float(metric.compute()) == pytest.approx(3 / 6)


def test_updates_in_parts_of_other_widths_are_one_update():
    metric = DistinctN(2)
    for rows in (ROWS[:1], ROWS[1:2], ROWS[2:]):
        metric.update(*padded(rows))
    assert float(metric.compute()) == pytest.approx(distinct(ROWS, 2))
    metric.reset()
    metric.update(*padded([[5, 6, 7]]))
    assert float(metric.compute()) == 1.0
