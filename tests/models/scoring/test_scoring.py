"""Padded rows, and whole batches in a line, give the log-probabilities and gradients of separate sequences."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_align.models.scoring import target_logps as target_logps_module
from lit_align.models.scoring.chunked_head import head_token_logps
from lit_align.models.scoring.padded import padded_token_logps
from lit_align.models.scoring.ragged_attention import enable_ragged_attention, has_ragged_attention
from lit_align.models.scoring.unpadded import unpadded_token_logps
from lit_align.types import Prompts, Responses, pad_left
from tests.models.architectures import ARCHITECTURES, make

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


@pytest.fixture(params=["padded", "padded, eager", "unpadded", "unpadded, eager"])
def model(request, tiny_model):
    attention = "eager" if "eager" in request.param else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64, attn_implementation=attention)
    if request.param.startswith("unpadded"):
        enable_ragged_attention(model)
    return model.eval()


def token_logps(model, responses):
    """The model's own way."""
    if has_ragged_attention(model):
        return unpadded_token_logps(model, responses)
    return padded_token_logps(model, responses)


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


def assert_as_alone(model, prompts, groups, responses):
    """Values and gradients are those of each response in a sequence of its own."""
    found = token_logps(model, responses)
    assert found.dtype == torch.float32
    coefficients = torch.randn(found.shape) * (torch.rand(found.shape) < 0.8)
    expected = torch.zeros(found.shape, dtype=torch.float64)
    for b, k in itertools.product(range(len(groups)), range(len(groups[0]))):
        values = alone(model, prompts[b], groups[b][k])
        expected[b, k, : len(values)] = values
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad((found * coefficients).sum(), weights)
    wanted = torch.autograd.grad((expected * coefficients).sum(), weights)
    for a, b in zip(gradients, wanted, strict=True):
        # The log-softmax is taken in float32; relative to the whole gradient of a weight.
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_values_and_gradients_are_those_of_each_response_alone(model, groups):
    assert_as_alone(model, PROMPTS, groups, batch(PROMPTS, groups))


@pytest.mark.parametrize("head", ["trained", "frozen", "plain"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_heads_of_all_kinds_give_them_too(name, head, monkeypatch):
    model = make(name)
    model.get_output_embeddings().requires_grad_(head != "frozen")
    few = partial(head_token_logps, logits_at_once=5 * model.config.vocab_size)
    monkeypatch.setattr(target_logps_module, "head_token_logps", few)
    if head == "plain":
        monkeypatch.setattr(target_logps_module, "logit_transform_of", lambda model: None)
    groups = GROUPS["unequal lengths"]
    assert_as_alone(model, PROMPTS, groups, batch(PROMPTS, groups, more_left=1, more_right=1))


def test_a_group_may_reach_the_limit_of_the_context(model):
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 28, (n,), generator=generator).tolist() for n in (124, 126)]
    groups = [[[9, 11, 13, 2], [14, 15, 16]], [[7, 2], [8]]]
    assert_as_alone(model, prompts, groups, batch(prompts, groups))


@pytest.mark.parametrize("garbage", [0, 13])
def test_padding_and_the_tokens_under_it_change_nothing(model, garbage):
    groups = GROUPS["unequal lengths"]
    narrow = token_logps(model, batch(PROMPTS, groups))
    wide = token_logps(model, batch(PROMPTS, groups, more_left=3, more_right=2, garbage=garbage))
    torch.testing.assert_close(wide[..., : narrow.shape[-1]], narrow)
    assert (wide[~batch(PROMPTS, groups, more_right=2).mask] == 0).all()


def test_neither_the_batch_nor_the_order_of_a_group_matters(model):
    some = batch(PROMPTS, GROUPS["unequal lengths"])
    whole = token_logps(model, some)
    one = token_logps(model, some.select([1]).trim())
    torch.testing.assert_close(one, whole[1:2, :, : one.shape[-1]])
    order = [2, 0, 1]
    shuffled = replace(some, ids=some.ids[:, order], mask=some.mask[:, order])
    torch.testing.assert_close(token_logps(model, shuffled), whole[:, order])


def test_a_response_is_not_seen_by_the_others_of_its_group(model):
    groups = GROUPS["unequal lengths"]
    changed = [[[20, 20, 20, 20], *group[1:]] for group in groups]
    first = token_logps(model, batch(PROMPTS, groups, more_right=1))
    second = token_logps(model, batch(PROMPTS, changed, more_right=1))
    width = min(first.shape[-1], second.shape[-1])
    torch.testing.assert_close(first[:, 1:, :width], second[:, 1:, :width])


def test_probabilities_of_all_responses_of_up_to_two_tokens_sum_to_one(model):
    vocabulary, eos = model.config.vocab_size, 2
    others = [token for token in range(vocabulary) if token != eos]
    everything = [[eos], *([a, b] for a in others for b in range(vocabulary))]
    logps = token_logps(model, batch([[1, 9, 12]], [everything])).sum(-1)
    assert logps.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("lined_up", [False, True], ids=["padded", "unpadded"])
def test_half_precision_masks_are_finite_and_give_finite_gradients(tiny_model, lined_up):
    model, exact = (AutoModelForCausalLM.from_pretrained(tiny_model, dtype=d) for d in (torch.bfloat16, torch.float32))
    if lined_up:
        enable_ragged_attention(model)
    responses = batch(PROMPTS, GROUPS["unequal lengths"], more_left=2)
    found = token_logps(model, responses)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    torch.testing.assert_close(found, token_logps(exact, responses), atol=0.1, rtol=0.05)
