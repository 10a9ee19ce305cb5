"""The base trains without any noise, whatever its config says; adapters keep their own dropout."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align import LanguageModel, LoRA
from lit_align.models.loading.dropout import without_dropout
from tests.conftest import make_tokenizer, prompts_of
from tests.models.architectures import SHAPE

NOISY = {
    "gpt2": {"attn_pdrop": 0.2, "embd_pdrop": 0.2, "resid_pdrop": 0.2},
    "opt": {"dropout": 0.2, "attention_dropout": 0.2, "layerdrop": 0.5},
    "biogpt": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "layerdrop": 0.5},
    "llama": {"attention_dropout": 0.3},
    "mixtral": {"router_jitter_noise": 0.3, "num_local_experts": 4},
}


def saved(folder, kind) -> str:
    shape = {key: value for key, value in SHAPE.items() if kind in ("llama", "mixtral") or "head_dim" not in key}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | NOISY[kind]))).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def logps(policy):
    prompts = policy.encode(prompts_of(3))
    return policy.logps(policy.encode_responses(prompts, [["good day"], ["the cat is nice"], ["rain"]], 8))


@pytest.mark.parametrize("kind", NOISY)
def test_training_mode_adds_no_noise_to_log_probs(kind, tmp_path):
    path = saved(tmp_path, kind)
    policy = LanguageModel(path)
    policy.load()
    torch.testing.assert_close(logps(policy.train()), logps(policy.eval()), rtol=0, atol=0)
    noisy = AutoModelForCausalLM.from_pretrained(path).train()  # what plain transformers would train
    ids = torch.tensor([[9, 10, 11, 12]])
    assert (noisy(ids).logits - noisy(ids).logits).abs().max() > 1e-3
    assert without_dropout(noisy.config).to_dict() != noisy.config.to_dict()


def test_the_dropout_of_adapters_stays(tmp_path):
    policy = LanguageModel(saved(tmp_path, "llama"), lora=LoRA(rank=4, dropout=0.5))
    policy.load()
    with torch.no_grad():
        for weight in policy.parameters():
            weight += weight.requires_grad * 0.1 * torch.randn_like(weight)
    policy.train()
    assert (logps(policy) - logps(policy)).abs().max() > 1e-3


def test_what_is_exported_keeps_the_config_that_it_came_with(tmp_path):
    policy = LanguageModel(saved(tmp_path, "llama"))
    policy.load()
    assert policy.config.attention_dropout == policy.base().config.attention_dropout == 0.3
    assert policy.model.config.attention_dropout == 0
