"""A batch in a line: nothing is read twice, nothing is padded, and every kind of attention sees what it should."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align.compat import attention_of, set_attention
from lit_align.models.attention import check_known
from lit_align.models.scoring.ragged_attention import (
    disable_ragged_attention,
    enable_ragged_attention,
    has_ragged_attention,
)
from lit_align.models.scoring.unpadded import line_up, unpadded_token_logps
from tests.models.architectures import SHAPE
from tests.models.scoring.test_scoring import GROUPS, PROMPTS, alone, assert_as_alone, batch

FULL, SLIDING = "full_attention", "sliding_attention"
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "granite", "phi3")
WINDOWS = {
    "mistral": {"sliding_window": 3},
    "phi3": {"sliding_window": 3},
    "qwen2": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "smollm3": {"use_sliding_window": True, "sliding_window": 3, "layer_types": [FULL, SLIDING]},
}
SAME_BEGINNING = [[1, 9, 12, 7, 20], [1, 9, 12], [1, 9, 4, 4]]
GROUP = GROUPS["unequal lengths"]
LONG = [[[9] * 8, [14], [10, 4]], [[16, 2], [8] * 9, [2]], [[7, 7], [7] * 6, [21, 22, 2]]]


def make(kind, attention="sdpa", **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(**(SHAPE | {"model_type": kind} | more))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float64)
    enable_ragged_attention(model)
    return model.eval()


@pytest.mark.parametrize(("kind", "windows"), [*((kind, {}) for kind in sorted(ARCHITECTURES)), *WINDOWS.items()])
def test_every_architecture_gives_what_each_response_has_alone(kind, windows):
    model = make(kind, **windows)
    assert has_ragged_attention(model)
    for prompts in (PROMPTS, SAME_BEGINNING):
        assert_as_alone(model, prompts, GROUP, batch(prompts, GROUP, more_left=2, more_right=1, garbage=5))


@pytest.mark.parametrize("kind", sorted(WINDOWS))
def test_the_windows_of_that_test_hide_something(kind):
    wide, narrow = make(kind), make(kind, **WINDOWS[kind])
    assert not torch.allclose(alone(wide, PROMPTS[0], GROUP[0][0]), alone(narrow, PROMPTS[0], GROUP[0][0]), rtol=1e-3)


@pytest.mark.parametrize("groups", [LONG, GROUPS["groups of one"], GROUPS["one token each"]])
def test_rows_of_one_response_and_of_several_give_the_same(groups):
    for prompts in (SAME_BEGINNING, PROMPTS):
        assert_as_alone(make("llama"), prompts, groups, batch(prompts, groups))


@settings(deadline=None)  # a loaded machine is slow
@given(
    st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_the_line_has_every_token_once_in_the_order_of_its_tables(prompts, group, random):
    groups = [[[7] * random.randint(1, 5) for _ in range(group)] for _ in prompts]
    line = line_up(batch(prompts, groups, more_left=1, more_right=1))
    shared = 0
    while len(prompts) > 1 and all(len(p) > shared + 1 and p[shared] == prompts[0][shared] for p in prompts):
        shared += 1
    rest = [token for prompt in prompts for token in prompt[shared:]]
    written = [token for group in groups for response in group for token in response[:-1]]
    assert line.ids.tolist() == prompts[0][:shared] + rest + written
    asked = torch.cat([block.queries.at[block.queries.real] for block in line.blocks])
    assert asked.tolist() == list(range(len(line.ids)))
    for block in line.blocks:  # a token sees itself and those before it, one of each position
        for queries, real, keys, seen in zip(
            block.queries.at, block.queries.real, block.keys.at, block.seen, strict=True
        ):
            for place, its in zip(queries[real], seen[real], strict=True):
                assert line.positions[keys[its]].sort().values.tolist() == list(range(int(line.positions[place]) + 1))


def test_recomputed_activations_give_the_same_gradients():
    model, responses = make("llama"), batch(SAME_BEGINNING, GROUP)
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        gradients.append(torch.autograd.grad(unpadded_token_logps(model, responses).sum(), list(model.parameters())))
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_a_model_without_tables_attends_as_ever():
    model, ids = make("mistral", sliding_window=3), torch.tensor([[0, 0, 1, 9, 12, 7, 20], [1, 9, 12, 7, 20, 8, 8]])
    found = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
    set_attention(model.config, "sdpa")
    assert torch.equal(found, model(input_ids=ids, attention_mask=(ids > 0).long()).logits)


def test_scores_that_are_capped_are_those_of_the_eager_attention():
    options = {"attn_logit_softcapping": 0.5, "sliding_window": 3, "query_pre_attn_scalar": 8}
    model = make("gemma2", "eager", **options)
    assert has_ragged_attention(model)
    assert_as_alone(model, PROMPTS, GROUP, batch(PROMPTS, GROUP, more_left=2, more_right=1))


def test_an_attention_that_is_told_what_we_do_not_know_is_not_replaced():
    with pytest.raises(ValueError, match="its attention is told alibi, which this one does not know"):
        check_known({"position_ids": torch.zeros(1), "softcap": None, "alibi": torch.zeros(1)})


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_attends_as_it_did_when_the_line_is_given_up(attention):
    model = make("llama", attention)
    disable_ragged_attention(model)
    assert not has_ragged_attention(model)
    assert attention_of(model.config) == attention
