"""Adapters go on the modules that were named, in the layers that were numbered; what is not there is refused."""

import pytest

from lit_align.models.loading.adapter_targets import adapter_targets, shortest_names
from tests.models.loading.tiny_networks import KINDS, READING, network


def last(names):
    return {name.rpartition(".")[2] for name in names}


LINEAR = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
}
LINEAR |= dict.fromkeys(("gemma3_text", "gemma3", "qwen2_vl"), LINEAR["llama"])


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_is_every_linear_layer_that_reads_but_the_head(kind):
    names = adapter_targets(network(kind), "all-linear", None)
    assert last(names) == LINEAR[kind]
    assert all(name.startswith(READING.get(kind, "")) for name in names)
    per_layer = 4 if kind == "gpt2" else len(LINEAR[kind])
    assert len(names) == 2 * per_layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_is_counted_in_the_stack_that_reads_whatever_it_is_called(kind, layer):
    model = network(kind)
    every, names = (adapter_targets(model, "all-linear", layers) for layers in (None, [layer]))
    assert len(names) == len(every) / 2
    assert all(f".{layer}." in name for name in names)
    assert sorted([*names, *adapter_targets(model, "all-linear", [1 - layer])]) == sorted(every)


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_vl"])
def test_a_name_that_both_towers_have_means_that_of_the_language(kind):
    model = network(kind)
    shared = "q_proj" if kind == "gemma3" else "down_proj"
    names = adapter_targets(model, [shared], None)
    assert len(names) == 2
    assert all(name.startswith(READING[kind]) for name in names)
    seeing = {"gemma3": "fc1", "qwen2_vl": "qkv"}[kind]
    assert any(name.endswith(seeing) for name, _ in model.named_modules())
    with pytest.raises(ValueError, match=rf"nothing in the model is called '{seeing}'; adapters can go on .*q_proj"):
        adapter_targets(model, [seeing], None)


def test_a_pattern_is_of_whole_names():
    model = network("llama")
    assert adapter_targets(model, r".*layers\.1\..*q_proj", None) == ["model.layers.1.self_attn.q_proj"]
    for pattern, said in (("q_proj", "is called the pattern 'q_proj'"), ("(", "is no regular expression")):
        with pytest.raises(ValueError, match=said):
            adapter_targets(model, pattern, None)


def test_embedding_and_head_can_be_named_and_lie_in_no_layer():
    model = network("llama")
    assert adapter_targets(model, ["lm_head", "embed_tokens"], None) == ["lm_head", "model.embed_tokens"]
    with pytest.raises(ValueError, match=r"nothing in layers \[0\] is called 'lm_head'"):
        adapter_targets(model, ["q_proj", "lm_head"], [0])


@pytest.mark.parametrize(
    ("kind", "targets", "layers", "said"),
    [
        (
            "gpt2",
            ["c_attn", "q_proj"],
            None,
            "is called 'q_proj'; adapters can go on c_attn, c_fc, c_proj, lm_head",
        ),
        ("llama", ["self_attn"], None, "is a LlamaAttention, and adapters go on linear layers and embeddings"),
        ("llama", "all-linear", [0, 2], "the model has no layer 2: its layers are 0 to 1"),
        ("gemma3", "all-linear", [2], "the model has no layer 2: its layers are 0 to 1"),
        ("llama", "all-linear", [-1], "the model has no layer -1"),
    ],
)
def test_what_is_not_there_is_refused(kind, targets, layers, said):
    with pytest.raises(ValueError, match=said):
        adapter_targets(network(kind), targets, layers)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_names_are_short_where_that_names_the_same_modules(kind):
    model = network(kind)
    names = adapter_targets(model, ["q_proj"], None)
    assert shortest_names(model, names) == (["q_proj"] if kind == "llama" else sorted(names))
    assert shortest_names(model, names[:1]) == names[:1]
