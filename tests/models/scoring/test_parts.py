"""Groups in several sequences: as many as the operations ask for, and the same numbers however many."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_align import LanguageModel, LoRA, Sampler
from lit_align.models.scoring import token_logps as module
from lit_align.models.scoring.packed import in_parts, joined, sequences
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding


def operations(parts, prompt, length, group, hidden):
    """Of the linear layers and the attention of a decoder, of all parts of a group."""
    tokens = prompt + group / parts * length
    return parts * tokens * (24 * hidden**2 + 4 * hidden * tokens)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 64), st.sampled_from([64, 576, 4096]))
def test_no_other_number_of_sequences_costs_much_less(prompt, length, group, hidden):
    chosen = sequences(prompt, length, group, hidden)
    assert 1 <= chosen <= group
    least = min(operations(parts, prompt, length, group, hidden) for parts in range(1, group + 1))
    assert operations(chosen, prompt, length, group, hidden) <= 1.15 * least


def test_short_responses_share_their_prompt_and_long_ones_do_not():
    assert sequences(200, 32, 4, 576) == 1
    assert sequences(40, 2000, 8, 576) == 8
    assert 1 < sequences(256, 1024, 8, 4096) < 8


@pytest.fixture(scope="module")
def policy(tiny_model):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4), attention="eager")
    policy.load()
    for weight in policy.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    return policy


@pytest.fixture(scope="module")
def responses(policy):
    sampler = Sampler(group_size=5, max_new_tokens=8)
    return sampler.sample(policy, policy.encode(prompts_of(3)), seed=0, iteration=0)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_joined_are_the_group(responses, parts):
    cut = in_parts(responses, parts)
    assert len(cut) == len(responses) * parts
    assert int(cut.mask.sum()) == int(responses.mask.sum())
    assert torch.equal(joined(cut.ids.float(), 5, parts), responses.ids.float())
    assert torch.equal(joined(cut.sample_logps, 5, parts), responses.sample_logps)
    assert cut.prompts.texts[parts - 1] == cut.prompts.texts[0] == responses.prompts.texts[0]


def scored(policy, responses, monkeypatch, parts):
    monkeypatch.setattr(module, "sequences", lambda *shape: parts)
    policy.zero_grad()
    logps = policy.logps(responses)
    (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
    grads = {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None}
    return logps.detach(), grads, policy.logps(responses, "reference")


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_scores_and_gradients_are_the_same_in_any_number_of_sequences(policy, responses, monkeypatch, parts):
    whole, cut = (scored(policy, responses, monkeypatch, count) for count in (1, parts))
    assert_same_but_rounding(cut[0], whole[0])
    assert_same_but_rounding(cut[2], whole[2])
    assert cut[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        assert gradient.norm() > 0
        assert_same_but_rounding(cut[1][name], gradient, name=name)
