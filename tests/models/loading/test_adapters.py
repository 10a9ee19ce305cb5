"""Adapters begin at numbers of the run's seed alone; what cannot be made is refused before any weights load."""

import math
import os

import pytest
import torch
from transformers import PreTrainedModel

from lit_align import AcceleratedPO, LanguageModel, LoRA
from lit_align.models.loading.adapters import with_adapters
from lit_align.models.loading.architecture import class_of
from tests.models.loading.tiny_networks import READING, config_of, network, saved
from tests.tiny_runs import build


def begins_at(kind="llama", lora=None):
    config = config_of(kind)
    model = with_adapters(class_of(config).from_config(config), lora or LoRA(rank=3))
    return {name: weight.detach() for name, weight in model.named_parameters() if "lora_A" in name}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_adapters_begin_where_the_seed_of_the_run_says_whatever_went_before(monkeypatch):
    first = begins_at()
    torch.randn(7)
    begins_at("gpt2")
    with_adapters(network("llama"), LoRA(rank=3))
    assert same(begins_at(), first)
    monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", "1")
    assert not same(begins_at(), first)


def test_making_adapters_leaves_the_random_numbers_of_others_alone():
    config = config_of("llama")
    model = class_of(config).from_config(config)
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with_adapters(model, LoRA(rank=3))
    assert torch.equal(torch.randn(4), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"alpha": math.nan}, "alpha must be a finite number, got nan"),
        ({"alpha": math.inf}, "alpha must be a finite number, got inf"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"dropout": math.nan}, "dropout must be a finite number, got nan"),
        ({"target_modules": []}, "target_modules is empty"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_numbers_out_of_their_range_are_refused_at_once(options, said):
    with pytest.raises(ValueError, match=rf"policy\.lora\.{said}"):
        LoRA(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"target_modules": ["c_attn"]}, "is called 'c_attn'"), ({"layers": [5]}, "the model has no layer 5")],
)
@pytest.mark.parametrize("how", ["load", "fit"])
def test_adapters_that_a_model_has_no_place_for_are_refused_before_weights_load(
    tiny_model, pools, tmp_path, monkeypatch, options, said, how
):
    def from_pretrained(*_, **__):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", from_pretrained)
    lora = LoRA(**options)
    runs = {"load": LanguageModel(tiny_model, lora=lora).load, "fit": build(tiny_model, pools, tmp_path, lora=lora).fit}
    with pytest.raises(ValueError, match=said):
        runs[how]()


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_vl"])
def test_the_language_tower_alone_of_a_multimodal_checkpoint_is_adapted(tmp_path, kind):
    policy = LanguageModel(saved(tmp_path, kind), lora=LoRA(rank=2))
    policy.load()
    assert len(policy.factors()) == 14
    assert all(READING[kind] in name for name in policy.factors())


def test_the_rank_of_the_momentum_can_be_bounded():
    assert AcceleratedPO(LanguageModel("some/model"), rank=5).anchor.rank == 5
    with pytest.raises(ValueError, match=r"rank must be >= 1, got 0"):
        AcceleratedPO(LanguageModel("some/model"), rank=0)
