"""The policy learns, its reference does not: adapters, full weights, 4-bit weights, gradient checkpointing."""

import pytest
import torch

from lit_align import LanguageModel, LoRA
from lit_align.sampling.decoding import Decoding
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding

KINDS = {"full": {}, "lora": {"lora": LoRA(rank=4)}, "nf4": {"lora": LoRA(rank=4), "quantization": "nf4"}}


def load(path, **options) -> LanguageModel:
    policy = LanguageModel(path, **options)
    policy.load()
    return policy.train()


def drawn(policy, source="policy"):
    torch.manual_seed(1)
    return policy.sample(policy.encode(prompts_of(3)), torch.rand(3, 2, 6), Decoding(max_new_tokens=6), source)


def step(policy, responses, rate=1e-3):
    """One SGD step that makes the responses more likely."""
    optimizer = torch.optim.SGD([weight for weight in policy.parameters() if weight.requires_grad], rate)
    (-policy.logps(responses).sum()).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture(params=KINDS)
def policy(request, tiny_model) -> LanguageModel:
    return load(tiny_model, **KINDS[request.param])


def test_policy_and_reference_agree_at_the_start_and_only_the_policy_moves(policy):
    responses = drawn(policy)
    before, reference = policy.logps(responses).detach(), policy.logps(responses, "reference")
    assert_same_but_rounding(before, reference)
    step(policy, responses)
    step(policy, responses)
    assert policy.logps(responses).sum() > before.sum() + 0.1
    assert torch.equal(policy.logps(responses, "reference"), reference)
    assert_same_but_rounding(drawn(policy, "reference").sample_logps, responses.sample_logps)
    assert (drawn(policy).sample_logps - responses.sample_logps).abs().max() > 1e-2


def test_the_reference_carries_no_gradient_and_the_policy_does_only_where_gradients_are_on(policy):
    responses = drawn(policy)
    assert policy.logps(responses).requires_grad
    assert not policy.logps(responses, "reference").requires_grad
    assert not responses.sample_logps.requires_grad
    with torch.no_grad():
        assert not policy.logps(responses).requires_grad


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_reference_carries_no_gradient_under_checkpointing_either(tiny_model, kind):
    policy = load(tiny_model, gradient_checkpointing=True, **KINDS[kind])
    responses = drawn(policy)
    assert policy.logps(responses).requires_grad
    assert not policy.logps(responses, "reference").requires_grad


def test_adapters_can_be_kept_to_some_layers(tiny_model):
    policy = load(tiny_model, lora=LoRA(rank=4, layers=[1]))
    trained = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert trained
    assert all(".layers.1." in name for name in trained)


def test_no_memory_is_shared_with_what_must_stay(policy):
    trained = {weight.untyped_storage().data_ptr() for weight in policy.parameters() if weight.requires_grad}
    fixed = {weight.untyped_storage().data_ptr() for weight in policy.parameters() if not weight.requires_grad}
    assert trained
    assert not trained & fixed
    names = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert all(("lora_" in name) == (policy.lora is not None) for name in names)


def test_a_second_load_changes_nothing(policy):
    model, frozen = policy.model, policy.frozen
    policy.load()
    assert policy.model is model
    assert policy.frozen is frozen


def gradients(policy, responses):
    policy.zero_grad()
    logps = policy.logps(responses)
    (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
    found = {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.requires_grad}
    return logps.detach(), found


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_neither_values_nor_gradients_and_sampling_keeps_its_cache(tiny_model, kind):
    torch.manual_seed(2)
    plain = load(tiny_model, **KINDS[kind])
    torch.manual_seed(2)
    checkpointed = load(tiny_model, gradient_checkpointing=True, **KINDS[kind])
    assert any(getattr(part, "gradient_checkpointing", False) for part in checkpointed.model.modules())
    responses = drawn(plain)
    widths = []
    handle = checkpointed.model.register_forward_pre_hook(
        lambda _, args, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    assert torch.equal(drawn(checkpointed).ids, responses.ids)
    handle.remove()
    assert widths == [responses.prompts.ids.shape[1]] + [1] * (len(widths) - 1)
    (values, expected), (found_values, found) = gradients(plain, responses), gradients(checkpointed, responses)
    assert_same_but_rounding(found_values, values)
    assert found.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in found.values())
    for name in expected:
        assert_same_but_rounding(found[name], expected[name], name=name)


def test_four_bit_weights_are_near_the_full_ones_and_sampling_leaves_values_and_gradients_alone(tiny_model):
    quantized, full = load(tiny_model, **KINDS["nf4"]), load(tiny_model, **KINDS["full"])
    assert any(type(part).__name__ == "Linear4bit" for part in quantized.model.modules())
    responses = drawn(full)
    values, before = gradients(quantized, responses)
    difference = (values - full.logps(responses).detach())[responses.mask].abs()
    assert 1e-3 < difference.mean() < 1
    drawn(quantized)
    values_after, after = gradients(quantized, responses)
    assert_same_but_rounding(values_after, values)
    for name in before:
        assert_same_but_rounding(after[name], before[name], name=name)


def test_four_bit_weights_without_adapters_are_refused(tiny_model):
    with pytest.raises(ValueError, match=r"add policy.lora"):
        LanguageModel(tiny_model, quantization="nf4")
