"""The judge of a game: exact, or noisy by comparison or by reward; asked again, it says the same."""

import itertools

import pytest
import torch

from lit_align.games import bradley_terry_preference
from lit_align.games.game import RandomGame, RockPaperScissors
from lit_align.games.judge import GameJudge
from lit_align.types import Prompts
from tests.games.instances import generator

NOISES = ["none", "comparisons", "rewards"]


def game(temperature=1.0):
    return RandomGame(3, 6, temperature=temperature, seed=4)


def asked(some, times=1, start=0):
    """Every context so many times, under as many record ids."""
    records = some.records * times
    ids = torch.tensor([[record["context"]] for record in records])
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(start, start + len(records)), records)


def groups(rows, size=5):
    index = torch.randint(6, (rows, size), generator=generator(1))
    return index, [[str(y) for y in group] for group in index.tolist()]


@pytest.mark.parametrize("noise", NOISES)
def test_wins_and_their_transpose_add_to_one_with_a_half_on_the_diagonal(noise):
    some = game()
    _, texts = groups(60)
    verdict = GameJudge(some, noise).verdict(asked(some, 20), texts)
    torch.testing.assert_close(verdict.wins + verdict.wins.mT, torch.ones(60, 5, 5, dtype=torch.float64))
    assert (verdict.wins.diagonal(dim1=1, dim2=2) == 0.5).all()
    assert verdict.compared.all()
    if noise != "none":
        off = verdict.wins[:, ~torch.eye(5, dtype=torch.bool)]
        assert set(off.unique().tolist()) == {0.0, 1.0}


def test_without_noise_wins_are_the_preference_and_rewards_the_rewards():
    some = game()
    index, texts = groups(3)
    verdict = GameJudge(some).verdict(asked(some), texts)
    for x, i, j in itertools.product(range(3), range(5), range(5)):
        assert verdict.wins[x, i, j] == some.preference[x, index[x, i], index[x, j]]
    assert torch.equal(verdict.rewards, some.rewards.gather(-1, index))


@pytest.mark.parametrize("noise", NOISES)
def test_a_single_comparison_asked_for_by_an_evaluation_has_no_noise(noise):
    some = game()
    found = GameJudge(some, noise).compare(["p"] * 3, ["0", "1", "2"], ["3", "1", "5"], some.records)
    expected = [some.preference[0, 0, 3], some.preference[1, 1, 1], some.preference[2, 2, 5]]
    assert found == [float(p) for p in expected]


def test_comparisons_are_coins_whose_mean_is_the_preference():
    some, times = game(), 4000
    index, texts = torch.arange(6).expand(3 * times, -1), [[str(y) for y in range(6)]] * (3 * times)
    verdict = GameJudge(some, "comparisons").verdict(asked(some, times), texts)
    mean = verdict.wins.view(times, 3, 6, 6).mean(0)
    error = (some.preference * (1 - some.preference) / times).sqrt()
    assert ((mean - some.preference).abs() <= 4.5 * error + 1e-12).all()
    first, second = verdict.wins.view(times, 3, 6, 6)[:, 0, 0, 1], verdict.wins.view(times, 3, 6, 6)[:, 0, 2, 3]
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.08  # pairs are independent
    assert torch.equal(verdict.rewards, some.rewards.repeat(times, 1).gather(-1, index))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_noisy_rewards_win_by_the_bradley_terry_law_of_their_temperature(temperature):
    some, times = game(), 4000
    texts = [[str(y) for y in range(6)]] * (3 * times)
    verdict = GameJudge(some, "rewards", temperature).verdict(asked(some, times), texts)
    expected = bradley_terry_preference(some.rewards, temperature=temperature)
    error = (expected * (1 - expected) / times).sqrt()
    mean = verdict.wins.view(times, 3, 6, 6).mean(0)
    assert ((mean - expected).abs() <= 4.5 * error + 1e-12).all()
    noise = (verdict.rewards.view(times, 3, 6) - some.rewards).flatten() / temperature
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(noise.var()) == pytest.approx(torch.pi**2 / 6, abs=0.05)


def test_noisy_rewards_of_a_group_agree_with_one_another_and_comparisons_do_not():
    some, times = game(), 200
    texts = [[str(y) for y in range(6)]] * (3 * times)

    def transitive(noise):
        verdict = GameJudge(some, noise).verdict(asked(some, times), texts)
        scores = (verdict.wins.sum(-1) - 0.5).sort(-1).values
        return (scores == torch.arange(6.0).double()).all(-1), verdict

    orders, verdict = transitive("rewards")
    assert orders.all()
    better = verdict.rewards[:, :, None] > verdict.rewards[:, None, :]
    assert torch.equal(verdict.wins > 0.5, better)
    orders, _ = transitive("comparisons")
    assert not orders.all()


@pytest.mark.parametrize("noise", NOISES[1:])
def test_noise_is_the_same_when_asked_again_and_depends_on_the_prompt_alone(noise, monkeypatch):
    some = game()
    _, texts = groups(30)
    prompts = asked(some, 10)
    judge = GameJudge(some, noise)
    verdict = judge.verdict(prompts, texts)
    again = GameJudge(some, noise).verdict(prompts, texts)
    assert torch.equal(verdict.wins, again.wins)
    rows = [7, 2, 11]
    part = judge.verdict(prompts.select(rows), [texts[row] for row in rows])
    assert torch.equal(part.wins, verdict.wins[rows])
    assert torch.equal(part.rewards, verdict.rewards[rows])
    other = judge.verdict(asked(some, 10, start=1000), texts)
    assert not torch.equal(other.wins, verdict.wins)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(judge.verdict(prompts, texts).wins, verdict.wins)


def test_noise_does_not_resemble_the_random_numbers_of_the_draws():
    from lit_align.sampling.uniforms import mixed_seed, token_uniforms

    some = game()
    prompts = asked(some, 300)
    texts = [["0", "1"]] * 900
    wins = GameJudge(some, "comparisons").verdict(prompts, texts).wins[:, 0, 1]
    for stream in (0, 1):
        drawn = token_uniforms(prompts.record_id, 2, 2, seed=mixed_seed(0, stream), iteration=0)[:, 0, 1]
        assert abs(float(torch.corrcoef(torch.stack([wins, drawn.double()]))[0, 1])) < 0.15


def test_progress_is_told():
    some, told = game(), []
    GameJudge(some).verdict(asked(some), groups(3)[1], told.append)
    assert sum(told) == 3


def test_noise_on_rewards_that_a_game_does_not_have_is_refused_in_one_line():
    with pytest.raises(
        ValueError, match=r"model\.judge\.noise: rewards needs a game that has rewards: use comparisons"
    ):
        GameJudge(RockPaperScissors(), "rewards")
    assert not GameJudge(RockPaperScissors(), "comparisons").has_rewards
    assert GameJudge(game()).has_rewards
    verdict = GameJudge(RockPaperScissors()).verdict(asked(RockPaperScissors()), [["0", "1", "2"]])
    assert verdict.rewards is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=r"model\.judge\.temperature must be > 0, got"):
        GameJudge(game(), "rewards", temperature)
