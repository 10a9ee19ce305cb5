"""WIND as a module: what it refuses, what its loss reads, and that every risk trains."""

import pytest
import torch

from lit_align import WIND, RewardFunction, Sampler
from lit_align.models.language_model import LanguageModel
from lit_align.types import Prompts, Responses, Rollouts
from tests.conftest import happiness
from tests.tiny_runs import build

RISKS = ("squared", "kl", "nce")


def wind(tiny_model, **options):
    return WIND(LanguageModel(tiny_model), RewardFunction("tests.conftest.happiness"), **options)


def rollouts(policy, anchor, reference, wins, compared=None):
    """Rollouts of given token log-probs [batch, group, length]; the last token of every response is padding."""
    batch, group, length = anchor.shape
    mask = torch.ones(batch, group, length, dtype=torch.bool)
    mask[..., -1] = False
    prompts = Prompts(
        torch.ones(batch, 2, dtype=torch.long),
        torch.ones(batch, 2, dtype=torch.bool),
        torch.arange(batch),
        [{"prompt": str(i)} for i in range(batch)],
    )
    ids = torch.zeros(batch, group, length, dtype=torch.long)
    responses = Responses(prompts, ids, mask, torch.zeros(batch, group, dtype=torch.bool), torch.zeros_like(anchor))
    compared = torch.ones_like(wins, dtype=torch.bool) if compared is None else compared
    return Rollouts(
        responses,
        wins,
        compared,
        policy_token_logps=policy,
        anchor_token_logps=anchor,
        reference_token_logps=reference,
    )


def random_wins(batch, group):
    upper = torch.rand(batch, group, group).triu(1)
    return upper + (1 - upper.transpose(1, 2)).tril(-1) + 0.5 * torch.eye(group)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, r"model\.beta must be >= 0, got -0\.1"),
        ({"eta": 0.0}, r"model\.eta must be > 0, got 0\.0"),
        ({"eta": -1.0}, r"model\.eta must be > 0, got -1\.0"),
        ({"sampler": Sampler(group_size=1)}, r"model\.sampler\.group_size is 1: WIND compares .* at least 2"),
    ],
)
def test_values_without_a_meaning_are_refused_by_name(tiny_model, options, message):
    with pytest.raises(ValueError, match=message):
        wind(tiny_model, **options)


def test_beta_zero_is_allowed(tiny_model):
    assert wind(tiny_model, beta=0.0).beta == 0


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_squared_loss_vanishes_at_the_exact_step_and_only_there(tiny_model, beta):
    eta, (batch, group, length) = 1.5, (3, 4, 5)
    anchor, reference = torch.randn(2, batch, group, length)
    wins = random_wins(batch, group)
    scale = 1 + beta * eta
    exact = (anchor[..., :-1].sum(-1) + beta * eta * reference[..., :-1].sum(-1) + eta * wins.mean(-1)) / scale
    policy = torch.zeros_like(anchor)
    policy[..., 0] = exact + torch.randn(batch, 1)  # the normaliser is the prompt's own
    policy[..., -1] = 1e3  # padding
    module = wind(tiny_model, beta=beta, eta=eta)

    values, weights = module.loss(rollouts(policy, anchor, reference, wins))
    torch.testing.assert_close(values, torch.zeros(batch), atol=1e-9, rtol=0)
    assert weights.tolist() == [1.0] * batch
    policy[0, 0, 0] += 1
    values, _ = module.loss(rollouts(policy, anchor, reference, wins))
    # One response off by a nat: its residual is scale/eta, centred over the group.
    expected = (scale / eta) ** 2 * (1 / group) * (1 - 1 / group)
    assert values[0] == pytest.approx(expected, rel=1e-4)
    assert values[1:].abs().max() < 1e-9


def test_at_the_start_the_squared_loss_is_the_variance_of_the_win_rates(tiny_model):
    wins = random_wins(2, 4)
    logps = torch.randn(2, 4, 3)
    values, _ = wind(tiny_model, beta=0.7).loss(rollouts(logps, logps, logps, wins))
    torch.testing.assert_close(values, wins.mean(-1).var(-1, correction=0))


@pytest.mark.parametrize("risk", RISKS)
def test_the_better_response_is_made_likelier(tiny_model, risk):
    wins = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]])
    logps = torch.randn(1, 2, 3)
    policy = logps.clone().requires_grad_()
    values, _ = wind(tiny_model, risk=risk).loss(rollouts(policy, logps, logps, wins))
    values.sum().backward()
    assert (policy.grad[0, 0, :-1] < 0).all()
    torch.testing.assert_close(policy.grad[0, 1], -policy.grad[0, 0])
    assert (policy.grad[..., -1] == 0).all()


@pytest.mark.parametrize("risk", RISKS)
def test_a_group_without_a_comparison_has_weight_zero(tiny_model, risk):
    compared = torch.eye(3, dtype=torch.bool).repeat(3, 1, 1)
    compared[1] = True
    compared[2, 0, 1] = compared[2, 1, 0] = True
    logps = torch.randn(3, 3, 4)
    values, weights = wind(tiny_model, risk=risk).loss(rollouts(logps, logps, logps, random_wins(3, 3), compared))
    assert weights.tolist() == [0.0, 1.0, 1.0]
    assert torch.isfinite(values).all()


def test_weights_are_known_before_the_policy_is(tiny_model):
    compared = torch.ones(2, 3, 3, dtype=torch.bool)
    compared[0] = torch.eye(3, dtype=torch.bool)
    anchor = torch.randn(2, 3, 4)
    module = wind(tiny_model)
    assert module.loss_weights(rollouts(None, anchor, anchor, random_wins(2, 3), compared)).tolist() == [0.0, 1.0]


def test_what_was_collected_carries_no_gradient(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, max_epochs=1)
    kinds = []
    loss = run.module.loss

    def recording(seen):
        if torch.is_grad_enabled():
            names = ("policy", "anchor", "reference")
            kinds.append([getattr(seen, f"{name}_token_logps").requires_grad for name in names])
        return loss(seen)

    run.module.loss = recording
    run.fit()
    assert kinds == [[True, False, False]] * 2
    responses = run.module.collect(run.pool.prompts(1)).responses
    assert run.module.policy.logps(responses).requires_grad
    assert not run.module.policy.logps(responses, "reference").requires_grad


def mean_reward(run, source):
    """Over 32 responses to every training prompt."""
    prompts = run.pool.prompts(0)
    drawn = run.module.sampler.respond(run.module.policy, prompts, seed=5, iteration=0, sources=(source,) * 32)
    texts = [text for group in run.module.policy.text(drawn) for text in group]
    return sum(happiness(None, texts, None)) / len(texts)


@pytest.mark.parametrize("risk", RISKS)
def test_every_risk_raises_the_reward(tiny_model, pools, tmp_path, risk):
    run = build(
        tiny_model,
        pools | {"heldout": None},
        tmp_path,
        lora=None,
        wind={
            "risk": risk,
            "beta": 0.02,
            "eta": 4.0,
            "sampler": Sampler(group_size=8, max_new_tokens=8),
            "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0),
        },
        pool={"prompts_per_iteration": 16},
        max_epochs=4,
    ).fit()
    assert mean_reward(run, "policy") > mean_reward(run, "reference") + 0.3
