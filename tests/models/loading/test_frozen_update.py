"""Momentum on adapters: sums of low-rank updates are exact, are seen by the policy alone, and are exported."""

import pytest
import torch

from lit_align import Extrapolated, LanguageModel, LoRA, Sampler
from lit_align.models.loading.frozen_update import combine
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding


@pytest.fixture(params=[None, "nf4"], ids=["lora", "nf4"])
def policy(request, tiny_model):
    loaded = LanguageModel(tiny_model, lora=LoRA(rank=2), quantization=request.param)
    loaded.load()
    return loaded


def update_of(policy):
    """What the policy adds to its base, layer by layer."""
    terms = {name: [(1.0, pair)] for name, pair in policy.factors().items()}
    for name, pair in policy.frozen_update().items():
        terms[name].append((1.0, pair))
    return {name: sum(c * b.double() @ a.double() for c, (b, a) in pairs) for name, pairs in terms.items()}


@torch.no_grad()
def train(policy, seed):
    torch.manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))


def responses_of(policy):
    return Sampler(group_size=2, max_new_tokens=5).respond(policy, policy.encode(prompts_of(3)), seed=0, iteration=0)


def test_momentum_moves_the_update_and_not_its_factors(policy):
    anchor, alpha = Extrapolated(0.5), 0.5
    anchor.begin(policy, 0)
    iterates = [update_of(policy)]
    for iteration in range(1, 5):
        train(policy, iteration)
        iterates.append(update_of(policy))
        weights = {name: value.clone() for name, value in policy.named_parameters() if value.requires_grad}
        anchor.begin(policy, iteration)
        anchor.begin(policy, iteration)  # a second call does nothing
        older, newer = iterates[-2:]
        for name, moved in update_of(policy).items():
            expected = newer[name] + alpha * (newer[name] - older[name])
            torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6 * float(expected.norm()))
        for name, value in policy.named_parameters():
            assert not value.requires_grad or torch.equal(value, weights[name])
        ranks = {pair[0].shape[1] for pair in policy.frozen_update().values()}
        assert ranks == {2 * iteration}


def test_adding_factors_is_not_adding_updates():
    torch.manual_seed(0)
    (b, a), (b_old, a_old) = [(torch.randn(20, 3), torch.randn(3, 20)) for _ in range(2)]
    exact, _ = combine([(1.5, (b, a)), (-0.5, (b_old, a_old))])
    update = 1.5 * b @ a - 0.5 * b_old @ a_old
    assert_same_but_rounding(exact[0] @ exact[1], update)
    naive = (b + 0.5 * (b - b_old)) @ (a + 0.5 * (a - a_old))
    assert (naive - update).norm() / update.norm() > 0.2


def test_a_smaller_rank_is_the_best_there_is_and_says_what_it_leaves_out():
    torch.manual_seed(0)
    terms = [(1.0, (torch.randn(12, 3), torch.randn(3, 9))), (-0.4, (torch.randn(12, 3), torch.randn(3, 9)))]
    whole = sum(c * b @ a for c, (b, a) in terms)
    (b, a), error = combine(terms, rank=2)
    assert b.shape == (12, 2)
    values = torch.linalg.svdvals(whole)
    assert error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)
    assert float((b @ a - whole).norm() / whole.norm()) == pytest.approx(error, rel=1e-5)
    assert combine(terms)[1] < 1e-6


def test_only_the_policy_has_the_frozen_update(policy):
    train(policy, 1)
    responses = responses_of(policy)
    with torch.no_grad():
        before, reference = policy.logps(responses), policy.logps(responses, "reference")
        policy.set_frozen_update({name: (b, 0.5 * a) for name, (b, a) in policy.factors().items()})
        updated = policy.logps(responses)
        assert (updated - before).abs().max() > 1e-3
        assert torch.equal(policy.logps(responses, "reference"), reference)
        for name, parameter in policy.named_parameters():  # half as much again, by scaling one factor of each
            if "lora_B" in name:
                parameter.mul_(1.5)
        policy.set_frozen_update({})
        assert_same_but_rounding(policy.logps(responses), updated)


def test_the_export_has_the_frozen_update(tiny_model, tmp_path):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=2))
    policy.load()
    train(policy, 1)
    policy.set_frozen_update({name: (b, 0.5 * a) for name, (b, a) in policy.factors().items()})
    policy.export(tmp_path)
    exported = LanguageModel(str(tmp_path))
    exported.load()
    responses = responses_of(policy)
    with torch.no_grad():
        assert_same_but_rounding(exported.logps(responses), policy.logps(responses))
