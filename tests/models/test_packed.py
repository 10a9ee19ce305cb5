"""Packed groups give the log-probabilities and gradients of separate, unpadded sequences."""

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_align.models.packed import packed_token_logps
from lit_align.types import Prompts, Responses, pad_left

PROMPTS = [[1, 9, 12, 7, 20], [15], [1, 8]]
GROUPS = {
    "unequal lengths": [
        [[9, 11, 13, 2], [14], [10, 4]],
        [[16, 2], [8, 8, 8, 8, 8], [2]],
        [[7, 7], [7, 9], [21, 22, 2]],
    ],
    "groups of one": [[[9, 11, 2]], [[16]], [[7, 7]]],
    "one token each": [[[9], [2]], [[16], [8]], [[7], [4]]],
}


@pytest.fixture(params=["sdpa", "eager"])
def model(request, tiny_model):
    return AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float64, attn_implementation=request.param
    ).eval()


def batch(prompts, groups, *, more_left=0, more_right=0, garbage=0) -> Responses:
    """The same tokens, with as much padding as asked for."""
    ids, mask = pad_left(prompts)
    left = torch.zeros(len(prompts), more_left, dtype=torch.long)
    ids, mask = torch.cat([left, ids], 1), torch.cat([left.bool(), mask], 1)
    width = max(len(y) for group in groups for y in group) + more_right
    answers = torch.tensor([[y + [0] * (width - len(y)) for y in group] for group in groups])
    lengths = torch.tensor([[len(y) for y in group] for group in groups])
    real = torch.arange(width) < lengths[..., None]
    return Responses(
        Prompts(ids.masked_fill(~mask, garbage), mask, torch.arange(len(prompts)), [{"prompt": ""}] * len(prompts)),
        answers.masked_fill(~real, garbage),
        real,
        torch.zeros(lengths.shape, dtype=torch.bool),
        torch.zeros(real.shape),
    )


def alone(model, prompt, response):
    """Token log-probabilities of one response, the plain way."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_values_and_gradients_are_those_of_each_response_alone(model, groups):
    packed = packed_token_logps(model, batch(PROMPTS, groups), torch.float64)
    assert packed.dtype == torch.float32
    coefficients = torch.randn(packed.shape)
    expected = torch.zeros(packed.shape, dtype=torch.float64)
    for b, k in itertools.product(range(len(groups)), range(len(groups[0]))):
        values = alone(model, PROMPTS[b], groups[b][k])
        expected[b, k, : len(values)] = values
    torch.testing.assert_close(packed, expected.float(), atol=1e-5, rtol=1e-5)
    weights = list(model.parameters())
    found = torch.autograd.grad((packed * coefficients).sum(), weights)
    wanted = torch.autograd.grad((expected * coefficients).sum(), weights)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("garbage", [0, 13])
def test_padding_and_the_tokens_under_it_change_nothing(model, garbage):
    groups = GROUPS["unequal lengths"]
    narrow = packed_token_logps(model, batch(PROMPTS, groups), torch.float64)
    wide = packed_token_logps(model, batch(PROMPTS, groups, more_left=3, more_right=2, garbage=garbage), torch.float64)
    torch.testing.assert_close(wide[..., : narrow.shape[-1]], narrow)
    assert (wide[~batch(PROMPTS, groups, more_right=2).mask] == 0).all()


def test_neither_the_batch_nor_the_order_of_a_group_matters(model):
    some = batch(PROMPTS, GROUPS["unequal lengths"])
    whole = packed_token_logps(model, some, torch.float64)
    one = packed_token_logps(model, some.select([1]).trim(), torch.float64)
    torch.testing.assert_close(one, whole[1:2, :, : one.shape[-1]])
    order = [2, 0, 1]
    shuffled = replace(some, ids=some.ids[:, order], mask=some.mask[:, order])
    torch.testing.assert_close(packed_token_logps(model, shuffled, torch.float64), whole[:, order])


def test_a_response_is_not_seen_by_the_others_of_its_group(model):
    groups = GROUPS["unequal lengths"]
    changed = [[[20, 20, 20, 20], *group[1:]] for group in groups]
    first = packed_token_logps(model, batch(PROMPTS, groups, more_right=1), torch.float64)
    second = packed_token_logps(model, batch(PROMPTS, changed, more_right=1), torch.float64)
    width = min(first.shape[-1], second.shape[-1])
    torch.testing.assert_close(first[:, 1:, :width], second[:, 1:, :width])


def test_probabilities_of_all_responses_of_up_to_two_tokens_sum_to_one(model):
    vocabulary, eos = model.config.vocab_size, 2
    others = [token for token in range(vocabulary) if token != eos]
    everything = [[eos], *([a, b] for a in others for b in range(vocabulary))]
    logps = packed_token_logps(model, batch([[1, 9, 12]], [everything]), torch.float64).sum(-1)
    assert logps.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_half_precision_masks_are_finite_and_give_finite_gradients(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    packed = packed_token_logps(model, batch(PROMPTS, GROUPS["unequal lengths"], more_left=2), torch.bfloat16)
    assert packed.dtype == torch.float32
    packed.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    exact = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    expected = packed_token_logps(exact, batch(PROMPTS, GROUPS["unequal lengths"], more_left=2), torch.float32)
    torch.testing.assert_close(packed, expected, atol=0.1, rtol=0.05)
