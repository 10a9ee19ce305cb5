"""An exported policy is a plain Hugging Face model with the policy's own log-probabilities."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_align import LanguageModel, LoRA
from lit_align.sampling.decoding import Decoding
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding


@pytest.fixture(params=["full", "lora"])
def policy(request, tiny_model) -> LanguageModel:
    """A policy that has moved away from its reference."""
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4) if request.param == "lora" else None)
    policy.load()
    with torch.no_grad():
        for weight in policy.parameters():
            weight += weight.requires_grad * 0.1 * torch.randn_like(weight)
    return policy


def test_the_exported_model_is_plain_and_has_the_policys_log_probs(policy, tmp_path):
    responses = policy.sample(policy.encode(prompts_of(4)), torch.rand(4, 2, 6), Decoding(max_new_tokens=6), "policy")
    expected = policy.logps(responses).detach()
    assert (expected - policy.logps(responses, "reference")).abs().max() > 0.1
    policy.export(tmp_path)
    assert_same_but_rounding(policy.logps(responses).detach(), expected)
    assert not (tmp_path / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain).__name__ == "LlamaForCausalLM"
    for b in range(4):
        prompt = responses.prompts.ids[b][responses.prompts.mask[b]]
        for k in range(2):
            tokens = responses.ids[b, k][responses.mask[b, k]]
            logits = plain(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1]
            logps = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
            assert_same_but_rounding(logps.detach(), expected[b, k, : len(tokens)])


def test_the_exported_folder_is_a_policy_again_with_tokenizer_template_and_ends(policy, tmp_path):
    policy.export(tmp_path)
    again = LanguageModel(str(tmp_path))
    again.load()
    assert again.eos.tolist() == policy.eos.tolist() == [2, 4]
    assert torch.equal(again.encode(prompts_of(4)).ids, policy.encode(prompts_of(4)).ids)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    assert tokenizer.pad_token == policy.tokenizer.pad_token
    responses = policy.sample(policy.encode(prompts_of(4)), torch.rand(4, 2, 6), Decoding(max_new_tokens=6), "policy")
    assert_same_but_rounding(again.logps(responses), policy.logps(responses))
    assert_same_but_rounding(again.logps(responses, "reference"), policy.logps(responses).detach())
