"""Adapters summed into the weights compute what they compute beside them, and leave no trace."""

import pytest
import torch
from peft.tuners.lora import LoraLayer

from lit_align import LanguageModel, LoRA
from lit_align.models.generation.merged_adapters import merged_adapters
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding


def adapted(tiny_model, dtype="float32", quantization=None):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=2, dropout=0.5), dtype=dtype, quantization=quantization)
    policy.load()
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


def layers_of(policy):
    """The layers that have an adapter."""
    layers = [layer for layer in policy.model.modules() if isinstance(layer, LoraLayer)]
    assert layers
    return layers


@torch.no_grad()
def logits_of(policy):
    return policy.model.eval()(policy.encode(prompts_of(1)).ids).logits


@pytest.mark.parametrize("momentum", [False, True], ids=["adapters", "adapters and a frozen update"])
def test_logits_are_the_same_merged_and_not(tiny_model, momentum):
    policy = adapted(tiny_model)
    if momentum:
        policy.set_frozen_update({name: (0.5 * b, a) for name, (b, a) in policy.factors().items()})
    beside = logits_of(policy)
    with merged_adapters(layers_of(policy)):
        assert all("forward" in vars(layer) for layer in layers_of(policy))
        assert_same_but_rounding(logits_of(policy), beside)
    assert not torch.allclose(beside, reference_of(policy), atol=1e-2)


def reference_of(policy):
    with policy.model.disable_adapter():
        return logits_of(policy)


def test_the_reference_is_the_base_while_adapters_are_merged(tiny_model):
    policy = adapted(tiny_model)
    expected = reference_of(policy)
    with merged_adapters(layers_of(policy)):
        assert torch.equal(reference_of(policy), expected)


def test_nothing_is_left_behind_whatever_happens_inside(tiny_model):
    policy = adapted(tiny_model)
    policy.set_frozen_update(policy.factors())
    before, weights = logits_of(policy), {name: value.clone() for name, value in policy.state_dict().items()}
    update = policy.frozen_update()
    with pytest.raises(KeyError), merged_adapters(layers_of(policy)):
        raise KeyError
    assert torch.equal(logits_of(policy), before)
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())
    assert policy.frozen_update().keys() == update.keys()
    assert not any("forward" in vars(layer) for layer in layers_of(policy))


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "nf4"}], ids=["half", "4-bit"])
def test_weights_that_would_round_the_update_away_stay_as_they_are(tiny_model, options):
    policy = adapted(tiny_model, **options)
    before = logits_of(policy)
    with merged_adapters(layers_of(policy)):
        assert not any("forward" in vars(layer) for layer in layers_of(policy))
        assert torch.equal(logits_of(policy), before)
