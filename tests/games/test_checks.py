"""Bad input gets one line that names the argument, the first place, and what it should be."""

import math

import pytest
import torch

from lit_align import games
from lit_align.games import rock_paper_scissors
from lit_align.games.checks import (
    check_alpha,
    check_count,
    check_distribution,
    check_dominance,
    check_not_negative,
    check_positive,
    check_preference,
    check_rewards,
)
from tests.games.instances import vector

THIRD = torch.full((3,), 1 / 3, dtype=torch.float64)
RPS = rock_paper_scissors()


def changed(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def test_the_first_row_that_does_not_sum_to_one_is_named():
    laws = THIRD.expand(5, 2, 3).clone()
    laws[3, 1] = vector(0.5, 0.3, 0.13)
    laws[4, 0] = 0
    with pytest.raises(ValueError, match=r"^reference\[3, 1\] sums to 0\.93, not 1: normalise it$"):
        check_distribution("reference", laws)
    with pytest.raises(ValueError, match=r"^policy sums to 0\.93, not 1"):
        check_distribution("policy", laws[3, 1])


@pytest.mark.parametrize(("value", "shown"), [(-0.1, "-0.1"), (math.nan, "nan"), (math.inf, "inf")])
def test_the_first_entry_that_is_no_probability_is_named(value, shown):
    laws = THIRD.expand(2, 3).clone()
    laws[1, 2] = value
    with pytest.raises(ValueError, match=rf"^policy\[1, 2\] is {shown}: probabilities are finite and never negative$"):
        check_distribution("policy", laws)


def test_a_float32_law_is_taken_and_its_rounding_taken_out():
    law = check_distribution("policy", torch.full((4, 7), 1 / 7))
    assert law.dtype == torch.float64
    assert (law.sum(-1) - 1).abs().max() <= 1e-15


def test_the_first_pair_of_preferences_that_does_not_add_to_one_is_named():
    preference = changed(RPS.expand(4, 3, 3), (2, 0, 1), 0.7)
    expected = (
        r"^preference\[2, 0, 1\] \+ preference\[2, 1, 0\] is 0\.7, not 1: P\(y beats z\) \+ P\(z beats y\) must be 1"
    )
    with pytest.raises(ValueError, match=expected):
        check_preference("preference", preference)
    with pytest.raises(ValueError, match=r"^preference\[1, 1\] \+ preference\[1, 1\] is 2, not 1"):
        check_preference("preference", changed(RPS, (1, 1), 1.0))


@pytest.mark.parametrize("value", [-0.2, 1.2, math.nan])
@pytest.mark.parametrize("check", [check_preference, check_dominance])
def test_the_first_entry_that_is_no_probability_of_winning_is_named(check, value):
    with pytest.raises(ValueError, match=r"^P\[0, 2\] is .*: every entry is a probability in \[0, 1\]$"):
        check("P", changed(RPS, (0, 2), value))


@pytest.mark.parametrize("check", [check_preference, check_dominance])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 1)])
def test_a_matrix_that_is_not_square_is_refused_with_its_shape(check, shape):
    with pytest.raises(ValueError, match=r"^P has shape \[.*\], not \[\.\.\., Y, Y\]"):
        check("P", torch.full(shape, 0.5))


def test_float32_preferences_come_out_exactly_antisymmetric():
    preference = check_preference("preference", torch.sigmoid(torch.arange(3.0)[:, None] - torch.arange(3.0)))
    assert (preference + preference.mT == 1).all()


def test_a_dominance_in_which_neither_is_as_good_is_refused_where_it_first_happens():
    with pytest.raises(ValueError, match=r"^dominance\[0, 1\] \+ dominance\[1, 0\] is below 1"):
        check_dominance("dominance", changed(RPS, (0, 1), 0.4))
    check_dominance("dominance", torch.ones(3, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_reward_that_is_not_finite_is_named(value):
    with pytest.raises(ValueError, match=r"^rewards\[1, 0\] is .*: rewards are finite$"):
        check_rewards("rewards", changed(torch.zeros(2, 2), (1, 0), value))


def test_integer_rewards_are_taken():
    assert check_rewards("rewards", torch.tensor([1, 2])).dtype == torch.float64


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_must_be_positive_is_named(value):
    with pytest.raises(ValueError, match=r"^eta must be > 0 and finite, got"):
        check_positive("eta", value)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_what_must_not_be_negative_is_named(value):
    with pytest.raises(ValueError, match=r"^beta must be >= 0 and finite, got"):
        check_not_negative("beta", value)


@pytest.mark.parametrize("value", [0, -3, 1.5, math.nan, math.inf])
def test_what_must_be_a_count_is_named(value):
    with pytest.raises(ValueError, match=rf"^n must be a whole number >= 1, got {value}$"):
        check_count("n", value, least=1)


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_alpha_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=r"^alpha must lie in \[0, 1\), got"):
        check_alpha(value)


BAD, SKEWED = vector(0.5, 0.3, 0.1), changed(RPS, (0, 1), 0.9)
NAN = vector(0, math.nan, 1)
REFUSALS = [
    ("p", lambda: games.kl(BAD, THIRD)),
    ("q", lambda: games.kl(THIRD, BAD)),
    ("policy", lambda: games.win_rates(BAD, RPS)),
    ("preference", lambda: games.win_rates(THIRD, SKEWED)),
    ("policy", lambda: games.win_rate(BAD, THIRD, RPS)),
    ("opponent", lambda: games.win_rate(THIRD, BAD, RPS)),
    ("preference", lambda: games.win_rate(THIRD, THIRD, SKEWED)),
    ("policy", lambda: games.exploitability(BAD, RPS)),
    ("preference", lambda: games.exploitability(THIRD, SKEWED)),
    ("reference", lambda: games.exploitability(THIRD, RPS, reference=BAD, beta=1.0)),
    ("beta = 1.0", lambda: games.exploitability(THIRD, RPS, beta=1.0)),
    ("beta", lambda: games.exploitability(THIRD, RPS, beta=-1.0)),
    ("policy", lambda: games.sub_optimality(BAD, vector(1, 2, 3))),
    ("rewards", lambda: games.sub_optimality(THIRD, NAN)),
    ("rewards", lambda: games.hard_preference(NAN)),
    ("rewards", lambda: games.dominance(NAN)),
    ("rewards", lambda: games.bradley_terry_preference(NAN)),
    ("temperature", lambda: games.bradley_terry_preference(THIRD, temperature=0.0)),
    ("margin", lambda: games.rock_paper_scissors(0.6)),
    ("responses", lambda: games.random_skew((), 0)),
    ("policy", lambda: games.best_of_n(BAD, THIRD, 2)),
    ("rewards", lambda: games.best_of_n(THIRD, NAN, 2)),
    ("n ", lambda: games.best_of_n(THIRD, THIRD, 0)),
    ("policy", lambda: games.bond_step(BAD, THIRD, n=2, rewards=THIRD)),
    ("reference", lambda: games.bond_step(THIRD, BAD, n=2, rewards=THIRD)),
    ("rewards", lambda: games.bond_step(THIRD, THIRD, n=2, rewards=NAN)),
    ("dominance", lambda: games.bond_step(THIRD, THIRD, n=2, dominance=changed(RPS, (0, 1), 0.0))),
    ("n ", lambda: games.bond_step(THIRD, THIRD, n=0, rewards=THIRD)),
    ("mixing rates", lambda: games.bond_step(THIRD, THIRD, n=2, rewards=THIRD, a1=0.0)),
    ("mixing rates", lambda: games.bond_step(THIRD, THIRD, n=2, rewards=THIRD, a1=0.8, a2=0.3)),
    ("mixing rates", lambda: games.bond_step(THIRD, THIRD, n=2, rewards=THIRD, a1=0.8, a2=-0.1)),
    ("give exactly one", lambda: games.bond_step(THIRD, THIRD, n=2)),
    ("give exactly one", lambda: games.bond_step(THIRD, THIRD, n=2, rewards=THIRD, dominance=RPS)),
    ("n ", lambda: games.bond_beta(1, a1=0.5)),
    ("mixing rates", lambda: games.bond_beta(2, a1=1.5)),
    ("reference", lambda: games.log_win_rate_equilibrium(BAD, RPS, beta=1.0)),
    ("dominance", lambda: games.log_win_rate_equilibrium(THIRD, changed(RPS, (0, 1), 0.0), beta=1.0)),
    ("beta", lambda: games.log_win_rate_equilibrium(THIRD, RPS, beta=0.0)),
    ("anchor", lambda: games.wind_step(BAD, THIRD, RPS, beta=0.1, eta=1.0)),
    ("reference", lambda: games.wind_step(THIRD, BAD, RPS, beta=0.1, eta=1.0)),
    ("preference", lambda: games.wind_step(THIRD, THIRD, SKEWED, beta=0.1, eta=1.0)),
    ("beta", lambda: games.wind_step(THIRD, THIRD, RPS, beta=-0.1, eta=1.0)),
    ("eta", lambda: games.wind_step(THIRD, THIRD, RPS, beta=0.1, eta=0.0)),
    ("anchor", lambda: games.sppo_step(BAD, RPS, eta=1.0)),
    ("eta", lambda: games.sppo_step(THIRD, RPS, eta=-1.0)),
    ("reference", lambda: games.inpo_step(THIRD, BAD, RPS, eta=1.0, tau=0.5)),
    ("eta must be >= tau", lambda: games.inpo_step(THIRD, THIRD, RPS, eta=1.0, tau=1.5)),
    ("tau", lambda: games.inpo_step(THIRD, THIRD, RPS, eta=1.0, tau=-0.5)),
    ("anchor", lambda: games.nash_md_step(BAD, THIRD, RPS, eta=1.0, tau=0.5)),
    ("preference", lambda: games.nash_md_step(THIRD, THIRD, SKEWED, eta=1.0, tau=0.5)),
    ("tau", lambda: games.nash_md_step(THIRD, THIRD, RPS, eta=1.0, tau=-0.5)),
    (r"eta \* tau must be <= 1", lambda: games.nash_md_step(THIRD, THIRD, RPS, eta=4.0, tau=0.5)),
    ("base", lambda: games.onpo_step(BAD, THIRD, RPS, eta=1.0)),
    ("prediction", lambda: games.onpo_step(THIRD, NAN, RPS, eta=1.0)),
    ("eta", lambda: games.onpo_step(THIRD, THIRD, RPS, eta=0.0)),
    ("anchor", lambda: games.dpo_step(BAD, THIRD, beta=1.0)),
    ("rewards", lambda: games.dpo_step(THIRD, NAN, beta=1.0)),
    ("beta", lambda: games.dpo_step(THIRD, THIRD, beta=0.0)),
    ("reference", lambda: games.wind_equilibrium(BAD, RPS, beta=1.0)),
    ("preference", lambda: games.wind_equilibrium(THIRD, SKEWED, beta=1.0)),
    ("beta", lambda: games.wind_equilibrium(THIRD, RPS, beta=0.0)),
    ("start", lambda: games.wind_iterates(THIRD, RPS, beta=1.0, eta=1.0, iterations=1, start=BAD)),
    ("reference", lambda: games.wind_iterates(BAD, RPS, beta=1.0, eta=1.0, iterations=1)),
    ("preference", lambda: games.wind_iterates(THIRD, SKEWED, beta=1.0, eta=1.0, iterations=1)),
    ("eta", lambda: games.wind_iterates(THIRD, RPS, beta=1.0, eta=0.0, iterations=1)),
    ("beta", lambda: games.wind_iterates(THIRD, RPS, beta=-1.0, eta=1.0, iterations=1)),
    ("iterations", lambda: games.wind_iterates(THIRD, RPS, beta=1.0, eta=1.0, iterations=-1)),
    ("new", lambda: games.extrapolate(BAD, THIRD, alpha=0.3)),
    ("previous", lambda: games.extrapolate(THIRD, BAD, alpha=0.3)),
    ("alpha", lambda: games.extrapolate(THIRD, THIRD, alpha=1.0)),
    (r"previous\[0\] is 0 where new is not", lambda: games.extrapolate(THIRD, vector(0, 0.5, 0.5), alpha=0.3)),
    ("iterations", lambda: games.apo_tilt(-1, alpha=0.3)),
    ("alpha", lambda: games.apo_tilt(3, alpha=-0.3)),
    ("best", lambda: games.tilt_bound(0.0, 1.0)),
    ("tilt", lambda: games.tilt_bound(0.5, 0.0)),
]


@pytest.mark.parametrize(("name", "call"), REFUSALS, ids=range(len(REFUSALS)))
def test_every_function_refuses_what_it_cannot_use_by_the_arguments_name(name, call):
    with pytest.raises(ValueError, match=f"^{name}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_supports_that_do_not_meet_are_refused_by_their_row():
    first, second = vector(1, 0, 0), vector(0, 0.5, 0.5)
    anchors = torch.stack([THIRD, first])
    with pytest.raises(ValueError, match=r"^row \[1\] has no response of positive probability under every law"):
        games.wind_step(anchors, second, RPS, beta=0.1, eta=1.0)
    with pytest.raises(ValueError, match=r"^row \[1\] has no response"):
        games.wind_iterates(second, RPS, beta=0.1, eta=1.0, iterations=3, start=anchors)
    assert games.wind_step(first, second, RPS, beta=0.0, eta=1.0).tolist() == [1, 0, 0]
    assert games.wind_iterates(second, RPS, beta=0.0, eta=1.0, iterations=3, start=first).tolist() == [1, 0, 0]
