"""Scoring, the plain way and ours: full weights, adapters, 4-bit weights, gradient checkpointing, groups in parts.

Also what is kept for the backward pass.
"""

import pytest
import torch
import torch.nn.functional as F

from lit_align import LanguageModel, LoRA
from lit_align.models.scoring import token_logps as scoring
from lit_align.models.scoring.layout import Layout
from lit_align.models.scoring.token_logps import join_groups, split_groups
from lit_align.sampling.decoding import Decoding
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding

KINDS = {
    "full": {},
    "lora": {"lora": LoRA(rank=4)},
    "lora on the head too": {"lora": LoRA(rank=4, target_modules=["q_proj", "lm_head"])},
    "nf4": {"lora": LoRA(rank=4), "quantization": "nf4"},
}


def loaded(path, **options) -> LanguageModel:
    """A policy whose adapters do something."""
    policy = LanguageModel(path, **options)
    policy.load()
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    return policy.train()


def drawn(policy, count=3, group=3):
    return policy.sample(
        policy.encode(prompts_of(count)), torch.rand(count, group, 6), Decoding(max_new_tokens=6), "policy"
    )


def one_by_one(policy, responses):
    """Token log-probs of each response, from the logits of a sequence of its own."""
    rows = []
    for b, k in torch.cartesian_prod(torch.arange(len(responses)), torch.arange(responses.group_size)).tolist():
        prompt = responses.prompts.ids[b][responses.prompts.mask[b]]
        answer = responses.ids[b, k][responses.mask[b, k]]
        logits = policy.model(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        token_logps = logits.float().log_softmax(-1).gather(-1, answer[:, None])[:, 0]
        rows.append(F.pad(token_logps, (0, responses.ids.shape[-1] - len(answer))))
    return torch.stack(rows).view(responses.ids.shape)


def gradients(policy, token_logps, coefficients):
    policy.zero_grad()
    (token_logps * coefficients).sum().backward()
    return {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_are_those_of_each_response_alone(tiny_model, kind, checkpointing):
    policy = loaded(tiny_model, gradient_checkpointing=checkpointing, **KINDS[kind])
    responses = drawn(policy)
    found, expected = policy.logps(responses), one_by_one(policy, responses)
    assert_same_but_rounding(found, expected)
    coefficients = torch.randn(found.shape)
    mine, theirs = gradients(policy, found, coefficients), gradients(policy, expected, coefficients)
    assert mine.keys() == theirs.keys() != set()
    for name, gradient in theirs.items():
        assert_same_but_rounding(mine[name], gradient, name=name)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_a_group_that_was_split_is_itself_again_when_it_is_joined(tiny_model, parts):
    responses = drawn(loaded(tiny_model), group=5)
    cut = split_groups(responses, parts)
    assert len(cut) == len(responses) * parts
    assert int(cut.mask.sum()) == int(responses.mask.sum())
    assert torch.equal(join_groups(cut.ids.float(), 5, parts), responses.ids.float())
    assert torch.equal(join_groups(cut.sample_logps, 5, parts), responses.sample_logps)
    assert cut.prompts.texts[parts - 1] == cut.prompts.texts[0] == responses.prompts.texts[0]


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_scores_and_gradients_are_the_same_in_any_number_of_sequences(tiny_model, monkeypatch, parts):
    policy = loaded(tiny_model, lora=LoRA(rank=4))
    responses = drawn(policy, group=5)
    coefficients = torch.linspace(-1, 1, responses.ids.numel()).view(responses.ids.shape)
    scores, references, slopes = [], [], []
    for count in (1, parts):
        monkeypatch.setattr(scoring, "layout_of", lambda *_, count=count, **__: Layout(count, 100))
        scores.append(policy.logps(responses))
        references.append(policy.logps(responses, "reference"))
        slopes.append(gradients(policy, scores[-1], coefficients))
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(references[1], references[0], atol=1e-5, rtol=1e-5)
    assert slopes[1].keys() == slopes[0].keys()
    for name, gradient in slopes[0].items():
        assert gradient.norm() > 0
        torch.testing.assert_close(slopes[1][name], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-5)


def test_under_half_precision_scores_are_near_those_of_full(tiny_model):
    responses = drawn(loaded(tiny_model))
    full, half = (LanguageModel(tiny_model, dtype=dtype) for dtype in ("float32", "bfloat16"))
    for policy in (full, half):
        policy.load()
    found, expected = half.logps(responses), full.logps(responses)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)


def test_layers_below_the_first_adapter_keep_nothing_for_the_backward_pass(tiny_model):
    policy = loaded(tiny_model, lora=LoRA(rank=4, layers=[1]))
    kept: dict[str, int] = {"below": 0, "above": 0}
    place = "below"

    def count(tensor):
        kept[place] += 1
        return tensor

    def enter(*inputs):
        nonlocal place
        place = "above"

    policy.model.get_base_model().model.layers[1].register_forward_pre_hook(enter)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        policy.logps(drawn(policy))
    assert kept["below"] == 0
    assert kept["above"] > 0


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
def test_no_logits_are_kept_for_the_backward_pass(tiny_model, lora):
    policy = loaded(tiny_model, lora=lora)
    responses = drawn(policy)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: shapes.append(tensor.shape) or tensor, lambda x: x):
        policy.logps(responses)
    assert shapes
    assert not any(len(shape) > 1 and shape[-1] == len(policy.tokenizer) for shape in shapes)
