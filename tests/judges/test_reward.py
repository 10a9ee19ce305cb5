"""Rewards become wins: complementary, half on the diagonal and at ties, hard as the limit of Bradley-Terry."""

import itertools
import sys

import pytest
import torch

from lit_align import RewardFunction, RewardJudge
from lit_align.data.templates import Chat, encode
from lit_align.judges.reward import wins_from_rewards
from lit_align.types import Prompts
from tests.conftest import make_tokenizer

TEXTS = [["good good", "bad", "", "good"], ["sad", "sad", "happy", "nice happy day"]]
LAWS = [("hard", 1.0), ("bradley_terry", 1.0), ("bradley_terry", 0.3)]


def happiness(prompts: list[str], responses: list[str], records: list[dict]) -> list[float]:
    good, bad = {"good", "nice", "happy"}, {"bad", "sad"}
    return [float(sum((w in good) - (w in bad) for w in text.split())) for text in responses]


class Happiness(RewardJudge):
    def rewards(self, prompts, responses, records):
        return happiness(prompts, responses, records)


def two_prompts() -> Prompts:
    return encode(Chat(make_tokenizer()), [{"prompt": "the cat"}, {"prompt": "a day", "topic": "sun"}])


def test_hard_wins_by_hand():
    first, second = torch.tensor([2.0, 1.0, 1.0, -3.0]), torch.tensor([1.0, 2.0, 1.0, -3.0])
    assert wins_from_rewards(first, second).tolist() == [1.0, 0.0, 0.5, 0.5]


def test_bradley_terry_odds_are_the_exponential_of_the_difference_over_temperature():
    rewards = torch.tensor([0.0, 1.5], dtype=torch.float64)
    p = wins_from_rewards(rewards[1], rewards[0], "bradley_terry", temperature=0.5)
    torch.testing.assert_close(p / (1 - p), torch.tensor(1.5 / 0.5, dtype=torch.float64).exp())


@pytest.mark.parametrize(("comparison", "temperature"), LAWS)
def test_a_shift_of_all_rewards_changes_nothing(comparison, temperature):
    first, second = torch.tensor([0.5, 1.0, -2.0]), torch.tensor([1.0, 1.0, 3.0])
    shifted = wins_from_rewards(first + 8, second + 8, comparison, temperature)
    torch.testing.assert_close(shifted, wins_from_rewards(first, second, comparison, temperature))


def test_bradley_terry_tends_to_hard_as_the_temperature_falls_and_to_a_coin_as_it_rises():
    rewards = torch.tensor([-1.0, 0.0, 0.0, 2.0])
    first, second = rewards[:, None], rewards[None, :]
    torch.testing.assert_close(
        wins_from_rewards(first, second, "bradley_terry", 1e-3), wins_from_rewards(first, second, "hard")
    )
    warm = wins_from_rewards(first, second, "bradley_terry", 1e6)
    torch.testing.assert_close(warm, torch.full((4, 4), 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("comparison", "temperature"), LAWS)
def test_wins_are_complementary_with_half_on_the_diagonal_and_at_ties(comparison, temperature):
    verdict = Happiness(comparison, temperature).verdict(two_prompts(), TEXTS)
    torch.testing.assert_close(verdict.wins + verdict.wins.mT, torch.ones(2, 4, 4))
    assert (verdict.wins.diagonal(dim1=1, dim2=2) == 0.5).all()
    assert verdict.wins[1, 0, 1] == 0.5  # two equal rewards
    assert verdict.wins[0, 0, 1] > 0.5  # the row is the one that wins
    assert verdict.compared.all()


def test_a_verdict_holds_the_reward_of_every_response():
    rewards = Happiness().verdict(two_prompts(), TEXTS).rewards
    assert rewards is not None
    assert rewards.tolist() == [[2, -1, 0, 1], [-1, -1, 1, 2]]


@pytest.mark.parametrize(("comparison", "temperature"), LAWS)
def test_compare_agrees_with_the_verdict(comparison, temperature):
    judge, prompts = Happiness(comparison, temperature), two_prompts()
    wins = judge.verdict(prompts, TEXTS).wins
    for i, j in itertools.product(range(4), repeat=2):
        first, second = [group[i] for group in TEXTS], [group[j] for group in TEXTS]
        compared = judge.compare(prompts.texts, first, second, prompts.records)
        torch.testing.assert_close(torch.tensor(compared), wins[:, i, j])


@pytest.mark.parametrize(("comparison", "temperature"), LAWS)
def test_known_rewards_give_the_same_wins_without_asking_again(comparison, temperature):
    judge, prompts = Happiness(comparison, temperature), two_prompts()
    rewards = judge.verdict(prompts, TEXTS).rewards
    assert rewards is not None
    first, second = [group[0] for group in TEXTS], [group[3] for group in TEXTS]
    asked = judge.beats(prompts, first, second)
    judge.rewards = None  # type: ignore[assignment, method-assign]  # would fail if it were called
    torch.testing.assert_close(judge.beats(prompts, first, second, rewards[:, 0], rewards[:, 3]), asked)


def test_every_response_is_judged_with_its_own_prompt_and_record():
    seen = []

    class Spy(RewardJudge):
        def rewards(self, prompts, responses, records):
            seen.extend(zip(prompts, responses, (r.get("topic") for r in records), strict=True))
            return [0.0] * len(responses)

    done: list[int] = []
    Spy().verdict(two_prompts(), TEXTS, done.append)
    assert seen == [("the cat", t, None) for t in TEXTS[0]] + [("a day", t, "sun") for t in TEXTS[1]]
    assert sum(done) == 2


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature must be > 0"):
        Happiness("bradley_terry", temperature)


def test_a_reward_function_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    code = "def brevity(prompts, responses, records):\n    return [-float(len(text)) for text in responses]\n"
    (tmp_path / "brevity_of_a_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    judge = RewardFunction("brevity_of_a_test.brevity")
    assert judge.rewards(["p", "p"], ["aaa", ""], [{}, {}]) == [-3, 0]
    assert judge.name == "brevity_of_a_test.brevity"
    rewards = judge.verdict(two_prompts(), TEXTS).rewards
    assert rewards is not None
    assert rewards[0, 0] == -len(TEXTS[0][0])


@pytest.mark.parametrize("path", ["no_such_module.f", "math.no_such_function", "brevity", "", "math.pi"])
def test_an_unknown_function_is_one_clear_error(path):
    with pytest.raises(ValueError, match=r"judge\.function: .*" + repr(path)):
        RewardFunction(path)
