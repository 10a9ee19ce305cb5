"""J-BOND: the expected gradient of one policy and two anchor samples, enumerated, and the sign of its regulariser."""

import itertools
import math

import pytest
import torch

from lit_align.losses.jbond import jbond, jbond_advantages, jbond_penalty, leave_one_out
from tests.losses.enumeration import bradley_terry, intransitive, kl, simplex

pytestmark = pytest.mark.usefixtures("double")

ARMS, BETA, GAMMA = 4, 0.3, 0.5
TRIPLES = torch.tensor(list(itertools.product(range(ARMS), repeat=3)))


def hard(rewards):
    difference = rewards[:, None] - rewards[None, :]
    return (difference > 0).double() + 0.5 * (difference == 0)


def some_preference(kind):
    rewards = torch.tensor([0.0, 1.0, 1.0, 3.0])
    return {"hard": hard(rewards), "bradley-terry": bradley_terry(rewards), "any": intransitive(ARMS)}[kind]


def mean_surrogate(logps, anchor, preference, *, beta=BETA, gamma=GAMMA, baseline=0.0):
    """The mean over all triples: slot 0 from the policy, slots 1 and 2 from the anchor."""
    y, first, second = TRIPLES.unbind(-1)
    probability = logps.detach().exp()[y] * anchor[first] * anchor[second]
    wins = preference[TRIPLES[:, :, None], TRIPLES[:, None, :]]
    advantages = jbond_advantages(logps[TRIPLES], anchor.log()[TRIPLES], wins, beta=beta, gamma=gamma)
    return probability @ jbond(logps[TRIPLES], wins, advantages - baseline, beta=beta)


def objective(pi, anchor, preference, *, beta=BETA, gamma=GAMMA):
    """What the mean surrogate's gradient should be that of."""
    best_of_two = anchor * 2 * (preference @ anchor)
    stand_in = anchor * torch.exp(-math.log(16) * (1 - preference @ anchor) ** 2)
    return (1 - beta) * kl(best_of_two, pi) + beta * kl(pi, stand_in) + gamma * kl(pi, anchor)


@pytest.mark.parametrize("kind", ["hard", "bradley-terry", "any"])
@pytest.mark.parametrize(("beta", "gamma"), [(0.3, 0.5), (0.0, 0.5), (1.0, 0.0)])
def test_the_enumerated_gradient_is_that_of_the_objective(kind, beta, gamma):
    logits, anchor, preference = torch.randn(ARMS).requires_grad_(), simplex(ARMS), some_preference(kind)
    options = {"beta": beta, "gamma": gamma}
    (expected,) = torch.autograd.grad(objective(logits.softmax(0), anchor, preference, **options), logits)
    assert expected.abs().max() > 1e-2
    for baseline in (0.0, -2.0):
        mean = mean_surrogate(logits.log_softmax(0), anchor, preference, baseline=baseline, **options)
        torch.testing.assert_close(torch.autograd.grad(mean, logits)[0], expected)


def test_the_regulariser_descends_towards_the_anchor():
    logits, anchor = torch.randn(ARMS).requires_grad_(), simplex(ARMS)
    preference = torch.full((ARMS, ARMS), 0.5)

    def gradient(gamma):
        mean = mean_surrogate(logits.log_softmax(0), anchor, preference, beta=0.0, gamma=gamma)
        return torch.autograd.grad(mean, logits)[0]

    step = gradient(1.0) - gradient(0.0)
    before, after = (kl(x.softmax(0), anchor) for x in (logits, logits - 0.1 * step))
    assert after < before


def test_the_forward_part_imitates_the_better_anchor_sample_alone():
    logps = torch.tensor([[-3.0, -2.0, -1.0]], requires_grad=True)
    wins = torch.tensor([[[0.5, 0.5, 0.5], [0.5, 0.5, 1.0], [0.5, 0.0, 0.5]]])
    value = jbond(logps, wins, torch.tensor([0.7]), beta=0.25)
    assert value.item() == pytest.approx(0.75 * 2 + 0.7 * 3)
    (gradient,) = torch.autograd.grad(value.sum(), logps)
    torch.testing.assert_close(gradient, torch.tensor([[-0.7, -0.75, 0.0]]))


def test_the_advantage_by_hand_and_without_gradient():
    logps = torch.tensor([[-3.0, -2.0, -1.0]], requires_grad=True)
    anchor_logps = torch.tensor([[-4.0, -9.0, -9.0]])  # log-ratio 1
    wins = torch.tensor([[[0.5, 0.0, 0.25], [1.0, 0.5, 0.5], [0.75, 0.5, 0.5]]])
    value = jbond_advantages(logps, anchor_logps, wins, beta=0.5, gamma=2.0)
    assert value.item() == pytest.approx(0.5 * (-0.75 * math.log(16) - 1) - 2)
    assert not value.requires_grad


def test_labels_are_penalised_only_when_both_anchor_samples_win():
    first, second = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).unbind(-1)
    torch.testing.assert_close(jbond_penalty(first, second), torch.tensor([-math.log(16), 0, 0, 0]))


@pytest.mark.parametrize(("quantile", "mean"), [(0.1, -2.246), (0.25, -1.560), (0.5, -0.693), (0.9, -0.028)])
def test_the_mean_penalty_follows_the_log_quantile_and_meets_it_at_one_half(quantile, mean):
    wins = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    chance = (wins * quantile + (1 - wins) * (1 - quantile)).prod(-1)
    found = float(chance @ jbond_penalty(*wins.unbind(-1)))
    assert found == pytest.approx(mean, abs=5e-4)
    assert (found == pytest.approx(math.log(quantile))) == (quantile == 0.5)


def test_at_the_anchor_one_sample_in_three_is_penalised():
    ranks = torch.tensor(list(itertools.permutations(range(3))))
    wins = (ranks[:, :1] > ranks[:, 1:]).double()
    assert (jbond_penalty(*wins.unbind(-1)) < 0).double().mean().item() == pytest.approx(1 / 3)


def test_the_baseline_of_a_prompt_is_the_mean_of_the_others():
    values = torch.tensor([1.0, 2.0, 6.0])
    torch.testing.assert_close(leave_one_out(values, torch.ones(3).bool()), torch.tensor([4.0, 3.5, 1.5]))
    torch.testing.assert_close(leave_one_out(torch.tensor([5.0]), torch.tensor([True])), torch.tensor([0.0]))


def test_the_baseline_does_not_look_at_prompts_that_do_not_count():
    values, counts = torch.tensor([1.0, torch.nan, 2.0, 6.0]), torch.tensor([True, False, True, True])
    torch.testing.assert_close(leave_one_out(values, counts), torch.tensor([4.0, 3.0, 3.5, 1.5]))


def test_a_tie_with_both_anchors_costs_a_quarter_of_the_full_penalty():
    half = torch.tensor([0.5])
    torch.testing.assert_close(jbond_penalty(half, half), torch.tensor([-math.log(16) / 4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_stay_finite_at_extreme_log_ratios(dtype):
    logps = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    wins = torch.full((2, 3, 3), 0.5, dtype=dtype)
    advantages = jbond_advantages(logps, torch.zeros_like(logps), wins, beta=BETA, gamma=GAMMA)
    (gradient,) = torch.autograd.grad(jbond(logps, wins, advantages, beta=BETA).sum(), logps)
    assert gradient.isfinite().all()
    assert (gradient[:, 0].sign() == logps[:, 0].sign()).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": -0.1, "gamma": 0.0}, r"beta must be in \[0, 1\], got -0.1"),
        ({"beta": 1.5, "gamma": 0.0}, r"beta must be in \[0, 1\], got 1.5"),
        ({"beta": 0.5, "gamma": -1.0}, "gamma must be >= 0, got -1.0"),
        ({"beta": 0.5, "gamma": math.nan}, "gamma must be >= 0, got nan"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(options, named):
    logps, wins = -torch.rand(2, 3), torch.full((2, 3, 3), 0.5)
    with pytest.raises(ValueError, match=named):
        jbond_advantages(logps, logps, wins, **options)
    if "beta" in named:
        with pytest.raises(ValueError, match=named):
            jbond(logps, wins, torch.zeros(2), beta=options["beta"])
