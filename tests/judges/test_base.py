"""A verdict compares every pair once, however it is batched; a missing comparison is never a tie."""

import math

import torch

from lit_align import Judge
from lit_align.data.templates import Chat, encode
from lit_align.types import Prompts
from tests.conftest import make_tokenizer, prompts_of


def many_prompts(count: int) -> Prompts:
    return encode(Chat(make_tokenizer()), prompts_of(count))


class Longer(Judge):
    """P(first beats second) grows with the difference in characters; remembers the size of each call."""

    def __init__(self):
        self.calls: list[int] = []

    def compare(self, prompts, first, second, records):
        self.calls.append(len(prompts))
        assert [r["prompt"] for r in records] == prompts
        return [1 / (1 + math.exp(len(b) - len(a))) for a, b in zip(first, second, strict=True)]


def test_a_verdict_compares_every_pair_once_and_completes_it():
    judge = Longer()
    texts = [["a", "aaa", "aa"], ["bb", "bb", ""]]
    verdict = judge.verdict(many_prompts(2), texts)
    length = torch.tensor([[len(t) for t in group] for group in texts], dtype=torch.float32)
    torch.testing.assert_close(verdict.wins, torch.sigmoid(length[:, :, None] - length[:, None, :]))
    assert sum(judge.calls) == 2 * 3
    assert verdict.compared.all()
    assert verdict.rewards is None


def test_judging_in_batches_changes_nothing_and_reports_every_prompt():
    prompts = many_prompts(7)
    texts = [["a" * i, "a" * (i % 3), "aa"] for i in range(7)]
    whole, parts = Longer(), Longer()
    parts.prompts_at_once = 3
    done: list[int] = []
    torch.testing.assert_close(parts.verdict(prompts, texts, done.append).wins, whole.verdict(prompts, texts).wins)
    assert parts.calls == [9, 9, 3]
    assert done == [3, 3, 1]


def test_beats_asks_about_one_pair_a_prompt():
    wins = Longer().beats(many_prompts(2), ["aaaa", "a"], ["a", "a"])
    torch.testing.assert_close(wins, torch.sigmoid(torch.tensor([3.0, 0.0])))


class Unsure(Judge):
    """Has an opinion unless it sees "b"."""

    def compare(self, prompts, first, second, records):
        return [math.nan if "b" in pair else 0.8 for pair in zip(first, second, strict=True)]


def test_a_comparison_that_is_nan_is_missing_and_not_a_tie():
    verdict = Unsure().verdict(many_prompts(2), [["a", "b", "c"], ["a", "d", "c"]])
    assert verdict.compared[0].tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert verdict.compared[1].all()
    torch.testing.assert_close(verdict.wins[0], torch.tensor([[0.5, 0.5, 0.8], [0.5, 0.5, 0.5], [0.2, 0.5, 0.5]]))
    assert Unsure().beats(many_prompts(2), ["a", "a"], ["c", "b"]).isnan().tolist() == [False, True]
