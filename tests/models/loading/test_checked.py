"""What cannot be aligned, or is damaged, is refused in one line that names the model and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertLMHeadModel

from lit_align import LanguageModel
from lit_align.models.loading import checked
from tests.conftest import make_tokenizer
from tests.models.architectures import SHAPE


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refused(path, **options) -> str:
    with pytest.raises(ValueError, match=r"^model\.policy\.") as raised:
        LanguageModel(str(path), **options).load()
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message or Path(path).name in message
    return message


def other(folder, kind, **options) -> Path:
    """A folder of another architecture with the same tokenizer."""
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | options)))
    made.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "not there"])
def test_damaged_weights_are_named(model, damage):
    file = model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {"cut": whole[: len(whole) // 2], "zeros": bytes(len(whole)), "empty": b"", "not there": b""}[damage]
    )
    if damage == "not there":
        file.unlink()
    assert "does not load" in refused(model)


@pytest.mark.parametrize("damage", ["cut", "nothing"])
def test_a_damaged_gguf_file_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x01" * 40 if damage == "cut" else b"")
    assert "model.gguf does not load" in refused(file)
    assert not list((tmp_path / "cache").rglob("config.json"))


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_more_layers_in_the_config_than_in_the_weights_are_not_filled_with_random_numbers(model):
    change_config(model, num_hidden_layers=3)
    assert "lacks model.layers.2." in refused(model)


def test_fewer_layers_in_the_config_than_in_the_weights_are_another_model(model):
    change_config(model, num_hidden_layers=1)
    assert "has model.layers.1." in refused(model)


def test_weights_of_another_shape_are_refused(model):
    change_config(model, intermediate_size=48)
    assert "has the shape (32, 64), and LlamaForCausalLM as its config says needs (32, 48)" in refused(model)


@pytest.mark.parametrize("name", ["v_head.weight", "score.weight"])
def test_a_head_that_the_model_does_not_have_is_refused(model, name):
    weights = load_file(model / "model.safetensors")
    save_file(weights | {name: torch.zeros(1, 32)}, model / "model.safetensors", metadata={"format": "pt"})
    assert f"has {name}, which LlamaForCausalLM has no place for" in refused(model)


def test_buffers_of_old_checkpoints_are_no_reason_to_refuse(model):
    weights = load_file(model / "model.safetensors")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    save_file(weights | old, model / "model.safetensors", metadata={"format": "pt"})
    LanguageModel(str(model)).load()


def test_a_tokenizer_larger_than_the_embedding_is_refused_before_weights_are_read(model):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(model)
    with pytest.raises(ValueError, match=r"^model\.policy\.name: .* ids up to 28, and its embedding has 28 rows"):
        LanguageModel(str(model)).encode([{"prompt": "good day"}])


def test_an_encoder_is_refused_before_weights_are_read(tmp_path):
    sizes = {key: SHAPE[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    BertLMHeadModel(BertConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "(bert) is no causal language model: what follows a token changes its log-prob" in refused(tmp_path)


def test_a_model_that_has_no_causal_form_is_refused_before_weights_are_read(tmp_path):
    AutoConfig.for_model("t5", d_model=32, num_layers=1).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert "is a t5, of which there is no causal language model" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["gemma2", "bloom"])
def test_a_model_without_sdpa_is_told_our_setting(tmp_path, kind):
    folder = other(tmp_path, kind)
    (folder / "model.safetensors").unlink()
    assert "set model.policy.attention to eager" in refused(folder)


def test_a_stamp_changes_with_the_files(model):
    before = checked.stamp_of(str(model))
    assert before == checked.stamp_of(str(model))
    change_config(model, bos_token_id=3)
    assert before != checked.stamp_of(str(model))
