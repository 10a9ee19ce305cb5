"""The lab: every iterate is kept, seeds are seeds, the clock counts what training takes and nothing else."""

import itertools
import logging
import warnings
from types import SimpleNamespace

import pytest
import torch

from lit_align import WIND, AcceleratedPO, RewardFunction, Sampler
from lit_align.games import lab, wind_step
from lit_align.games.enumeration import Enumeration
from lit_align.games.judge import GameJudge
from lit_align.games.lab import play
from lit_align.games.policies import TabularPolicy
from lit_align.models.language_model import LanguageModel
from tests.games.playing import game

BETA, ETA = 0.3, 0.8


def solved(parameters):
    return torch.optim.LBFGS(
        parameters, max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=2.0)


def wind(rules=None, optimizer=solved, noise="none", **options):
    rules = rules or game(3, 4)
    options = {"beta": BETA, "eta": ETA, "sampler": Enumeration()} | options
    return WIND(TabularPolicy(rules), GameJudge(rules, noise), optimizer=optimizer, **options)


def drawn(**options):
    sampler = Sampler(group_size=4)
    return wind(optimizer=sgd, noise="comparisons", sampler=sampler, **options)


def test_entry_zero_is_the_initial_policy_and_the_last_is_the_policy():
    module = wind()
    played = play(module, iterations=3)
    assert played.laws.shape == (4, 3, 4)
    torch.testing.assert_close(played.laws[0], module.policy.game.reference)
    assert torch.equal(played.laws[-1], module.policy.distribution())
    assert not played.laws.requires_grad
    torch.testing.assert_close(played.laws.sum(-1), torch.ones(4, 3, dtype=torch.float64))


def test_every_entry_is_the_exact_step_from_the_one_before():
    module = wind()
    laws = play(module, iterations=4).laws
    rules = module.policy.game
    for law, following in itertools.pairwise(laws):
        expected = wind_step(law, rules.reference, rules.preference, beta=BETA, eta=ETA)
        torch.testing.assert_close(following, expected, rtol=0, atol=1e-7)
        assert (following - law).abs().max() > 1e-3


def test_responses_are_counted_where_they_are_drawn():
    assert play(drawn(), iterations=3).responses.tolist() == [0, 4, 8, 12]
    assert play(wind(), iterations=3).responses.tolist() == [0, 0, 0, 0]


def test_a_seed_is_a_run_and_another_seed_another():
    first, again, other = (play(drawn(), iterations=3, seed=seed).laws for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0])
    assert (first[-1] - other[-1]).abs().max() > 1e-3


def test_copies_of_a_game_are_independent_seeds():
    rules = game(3, 4)
    twice = type(rules)(rules.reference.repeat(2, 1), rules.preference.repeat(2, 1, 1), copies=2)
    exact, noisy = (play(make, iterations=2).laws[-1] for make in (wind(twice), drawn(rules=twice)))
    torch.testing.assert_close(exact[:3], exact[3:], rtol=0, atol=1e-9)
    assert (noisy[:3] - noisy[3:]).abs().amax(-1).min() > 1e-3


def test_passes_and_batches_are_optimiser_steps():
    def steps(**options):
        taken, module = [], wind(game(6, 4), optimizer=sgd)
        step = module.training_step
        module.training_step = lambda batch, batch_idx: taken.append(len(batch)) or step(batch, batch_idx)
        play(module, iterations=1, **options)
        return taken

    assert steps() == [6]
    assert steps(passes=2) == [6, 6]
    assert steps(batch_size=3) == [3, 3]
    assert steps(batch_size=2, passes=2) == [2] * 6


def test_the_norm_of_a_gradient_may_be_bounded():
    def distance(clip):
        module = wind(optimizer=sgd)
        play(module, iterations=1, gradient_clip=clip)
        return float((module.policy.logits - module.policy.game.reference.log()).norm())

    moved = [distance(None), distance(1e-3)]
    assert moved[0] > 0.01
    assert moved[1] == pytest.approx(2.0 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_playing_on_is_playing_longer(alpha):
    def module():
        rules = game(3, 4)
        sampler = {"sampler": Enumeration(), "optimizer": solved, "pairing": "all"}
        return AcceleratedPO(TabularPolicy(rules), GameJudge(rules), alpha=alpha, beta=1.0, **sampler)

    whole, some = play(module(), iterations=4), module()
    first, second = play(some, iterations=2), play(some, iterations=2)
    torch.testing.assert_close(torch.cat([first.laws, second.laws[1:]]), whole.laws, rtol=0, atol=1e-9)
    torch.testing.assert_close(second.laws[0], first.laws[-1], rtol=0, atol=1e-9)


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(lab, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def takes(self, owner, method, seconds, monkeypatch):
        original = getattr(owner, method)

        def slow(*args, **kwargs):
            self.now += seconds
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, slow)


def test_the_clock_counts_collecting_and_training_and_not_the_record(monkeypatch):
    clock, module = Clock(monkeypatch), wind(optimizer=sgd)
    clock.takes(GameJudge, "verdict", 10, monkeypatch)
    clock.takes(WIND, "training_step", 1, monkeypatch)
    clock.takes(TabularPolicy, "distribution", 1000, monkeypatch)
    assert play(module, iterations=3).seconds.tolist() == [0, 11, 22, 33]


def test_a_game_leaves_no_files_and_the_log_and_warnings_as_they_were(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, "lightning.pytorch")
    filters = list(warnings.filters)
    play(drawn(), iterations=1)
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger("lightning.pytorch").level == logging.DEBUG
    assert warnings.filters == filters


def test_a_policy_that_is_none_of_a_game_is_refused_in_one_line(tiny_model):
    module = WIND(LanguageModel(tiny_model), RewardFunction("tests.conftest.happiness"))
    with pytest.raises(ValueError, match="the lab plays games: LanguageModel is no policy of one") as error:
        play(module, iterations=1)
    assert "\n" not in str(error.value)
