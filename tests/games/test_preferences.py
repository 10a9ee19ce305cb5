"""Preference matrices: antisymmetric, their limits, and the smallest cycle."""

import pytest
import torch

from lit_align.games import (
    bradley_terry_preference,
    dominance,
    hard_preference,
    random_skew,
    rock_paper_scissors,
    win_rates,
)
from tests.games.instances import KINDS, generator, random_preferences, vector


@pytest.mark.parametrize("kind", KINDS)
def test_a_preference_and_its_transpose_add_to_one(kind):
    preference = random_preferences(kind, 4, 6)
    torch.testing.assert_close(preference + preference.mT, torch.ones_like(preference), atol=1e-15, rtol=0)
    assert preference.shape == (4, 6, 6)
    assert preference.dtype == torch.float64


def test_hard_preference_and_dominance_by_hand():
    rewards = vector(1, 3, 1)
    assert hard_preference(rewards).tolist() == [[0.5, 0, 0.5], [1, 0.5, 1], [0.5, 0, 0.5]]
    assert dominance(rewards).tolist() == [[1, 0, 1], [1, 1, 1], [1, 0, 1]]


def test_dominance_is_the_win_plus_the_tie():
    rewards = torch.randint(3, (5, 7), generator=generator(0))
    ties = rewards[..., :, None] == rewards[..., None, :]
    torch.testing.assert_close(dominance(rewards), hard_preference(rewards) + 0.5 * ties)


def test_bradley_terry_is_logistic_in_the_difference_over_the_temperature():
    rewards = vector(0.0, 2.0)
    assert float(bradley_terry_preference(rewards, temperature=0.5)[1, 0]) == pytest.approx(0.9820137900379085)
    torch.testing.assert_close(bradley_terry_preference(rewards, temperature=1e-3), hard_preference(rewards))


def test_rock_paper_scissors_is_a_cycle_that_the_uniform_policy_solves():
    for margin in (0.5, 0.2):
        preference = rock_paper_scissors(margin)
        assert preference[0, 1] == preference[1, 2] == preference[2, 0] == 0.5 + margin
        torch.testing.assert_close(win_rates(vector(1, 1, 1) / 3, preference), vector(0.5, 0.5, 0.5))


def test_random_preferences_are_reproducible_intransitive_and_cover_the_unit_interval():
    first, again = (random_skew((500,), 3, generator=generator(1)) for _ in range(2))
    assert (first == again).all()
    above = first[:, 0, 1], first[:, 1, 2], first[:, 2, 0]
    cycles = torch.stack(above).gt(0.5)
    assert 0.15 < float((cycles.all(0) | (~cycles).all(0)).double().mean()) < 0.35  # a quarter of all tournaments
    assert first.min() < 0.02
    assert first.max() > 0.98
