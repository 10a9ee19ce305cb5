"""Games: what a random one is made of, its copies and records, and what is refused."""

import pytest
import torch

from lit_align.games import bradley_terry_preference, hard_preference, rock_paper_scissors
from lit_align.games.game import Game, RandomGame, RockPaperScissors
from tests.games.instances import random_laws, random_preferences, random_rewards

KINDS = ["bradley_terry", "hard", "skew"]


@pytest.mark.parametrize("reference", ["uniform", "random"])
@pytest.mark.parametrize("preference", KINDS)
def test_laws_sum_to_one_and_preferences_and_their_transposes_add_to_one(preference, reference):
    game = RandomGame(3, 5, preference, reference=reference, copies=2)
    torch.testing.assert_close(game.reference.sum(-1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(game.preference + game.preference.mT, torch.ones(6, 5, 5, dtype=torch.float64))
    assert (game.reference > 0).all()
    assert (game.contexts, game.responses) == (6, 5)
    uniform = float((game.reference - 0.2).abs().max()) < 1e-12
    assert uniform == (reference == "uniform")


def test_preferences_come_from_the_rewards_at_their_temperature():
    for temperature in (0.5, 2.0):
        game = RandomGame(2, 6, temperature=temperature)
        expected = bradley_terry_preference(game.rewards, temperature=temperature)
        torch.testing.assert_close(game.preference, expected)
    game = RandomGame(2, 6, "hard")
    torch.testing.assert_close(game.preference, hard_preference(game.rewards))
    assert RandomGame(2, 6, "skew").rewards is None


def test_the_temperature_is_in_standard_deviations_of_the_reward():
    for options in ({}, {"features": 6}):
        rewards = RandomGame(500, 10, **options).rewards
        assert float(rewards.mean()) == pytest.approx(0, abs=0.1)
        assert float(rewards.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("copies", [1, 3])
def test_with_features_the_reward_is_linear_in_them_with_a_direction_for_each_copy(copies):
    game = RandomGame(4, 6, features=3, copies=copies)
    assert game.features.shape == (4 * copies, 6, 3)
    directions = []
    for copy in range(copies):
        rows = game.copy_of == copy
        assert int(rows.sum()) == 4
        solution = torch.linalg.lstsq(game.features[rows].flatten(0, 1), game.rewards[rows].flatten()[:, None]).solution
        torch.testing.assert_close(game.features[rows] @ solution[:, 0], game.rewards[rows])
        assert float(solution.norm()) == pytest.approx(1)
        directions.append(solution[:, 0])
    assert all((one - other).abs().max() > 0.1 for i, one in enumerate(directions) for other in directions[:i])


@pytest.mark.parametrize("preference", KINDS)
def test_a_seed_is_a_game_and_another_seed_another(preference):
    first, again, other = (RandomGame(2, 4, preference, reference="random", seed=seed) for seed in (1, 1, 2))
    for name in ("reference", "preference"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_a_random_game_leaves_the_global_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    RandomGame(2, 4, features=2)
    assert torch.equal(torch.rand(3), expected)


def test_copies_are_blocks_of_contexts_that_differ():
    game = RandomGame(2, 4, copies=3, reference="random")
    assert game.copy_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert (game.preference[:2] - game.preference[2:4]).abs().max() > 0.1


def test_copies_of_rock_paper_scissors_are_the_same_game():
    game = RockPaperScissors(margin=0.2, copies=3)
    assert game.copy_of.tolist() == [0, 1, 2]
    for context in range(3):
        torch.testing.assert_close(game.preference[context], rock_paper_scissors(0.2))
        assert game.reference[context].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert game.rewards is None


def test_every_context_is_a_record_of_its_own():
    records = RandomGame(2, 4, copies=2).records
    assert [record["context"] for record in records] == [0, 1, 2, 3]
    assert len({record["prompt"] for record in records}) == 4


def test_what_is_no_game_is_refused_in_one_line():
    law, preference = random_laws(4, 3), random_preferences("skew", 4, 3)
    zero = law.clone()
    zero[1, 0], zero[1, 1] = 0, law[1, 0] + law[1, 1]
    unequal = preference.clone()
    unequal[2, 0, 1] += 0.1
    refused = [
        ((zero, preference), {}, r"reference\[1, 0\] is 0: policies start from it"),
        ((law * 1.1, preference), {}, r"reference\[0\] sums to 1\.1"),
        ((law, unequal), {}, r"preference\[2, 0, 1\] \+ preference\[2, 1, 0\] is .*, not 1"),
        ((law, preference), {"rewards": random_rewards(4, 3).log()}, r"rewards\[.*\] is nan"),
        ((law, preference), {"copies": 3}, r"copies \(3\) must .*divide the number of contexts \(4\)"),
    ]
    for arguments, options, message in refused:
        with pytest.raises(ValueError, match=message) as error:
            Game(*arguments, **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("copies", [0, -1, -2])
def test_a_number_of_copies_below_one_is_refused_in_one_line(copies):
    with pytest.raises(ValueError, match=rf"copies.*{copies}"):
        Game(random_laws(4, 3), random_preferences("skew", 4, 3), copies=copies)
