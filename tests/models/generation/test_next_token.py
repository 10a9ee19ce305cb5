"""Logits from the growing cache are those of reading each sequence whole, whatever rows come and go on the way."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align.compat import attention_of
from lit_align.models.generation.group_cache import GroupCache
from lit_align.models.generation.next_token import CausalLMNextToken, next_token_of
from lit_align.models.generation.row_cache import RoomyLayer, RowCache, with_room
from lit_align.models.generation.whole_sequences import WholeSequences
from lit_align.types import pad_left
from tests.models.architectures import SHAPE

PROMPTS = [[1, 9, 12, 7, 20], [15], [1, 8]]
TEMPLATE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
TEMPLATED = [[*TEMPLATE, *end] for end in ([13, 14, 15], [16], [16, 17, 13, 13], [], [13])]
WINDOW = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}


def make(kind, **options):
    torch.manual_seed(0)
    whole = {"sliding_window": None} if "sliding_window" not in options else {}
    config = AutoConfig.for_model(kind, **(SHAPE | whole | options))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="sdpa").eval()


class Told:
    """A cached model beside the histories of its rows, each read whole to compare."""

    def __init__(self, model):
        self.model, self.histories = model, []
        self.cached = CausalLMNextToken(model, shares=model.config.model_type not in ROWS)

    def prefill(self, prompts, group):
        first = self.cached.prefill(*pad_left(prompts), group)
        for logits, prompt in zip(first, prompts, strict=True):
            torch.testing.assert_close(logits, self.whole(prompt))
        self.histories += [list(prompt) for prompt in prompts for _ in range(group)]

    def step(self, *, compared=True):
        tokens = torch.randint(28, (len(self.histories),))
        logits = self.cached.step(tokens)
        for row, (history, token) in enumerate(zip(self.histories, tokens.tolist(), strict=True)):
            history.append(token)
            if compared:
                torch.testing.assert_close(logits[row], self.whole(history))

    def keep(self, rows):
        self.cached.keep(torch.tensor(rows, dtype=torch.long))
        self.histories = [self.histories[row] for row in rows]

    def whole(self, history):
        return self.model(torch.tensor([history])).logits[0, -1]


SHARED = ["granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3", "phi", "cohere"]
ROWS = ["gpt_neox"]  # read as are those whose attention cannot be exchanged
ALL = [*SHARED, *ROWS]


@pytest.fixture(params=ALL)
def told(request):
    return Told(make(request.param))


@torch.no_grad()
@pytest.mark.parametrize("prompts", [PROMPTS, TEMPLATED], ids=["nothing shared", "a template shared"])
def test_logits_are_those_of_whole_sequences_while_rows_come_and_go(told, prompts):
    told.prefill(prompts, 2)
    told.step()
    told.keep([0, 2, 3, 5])
    told.step()
    if told.cached.admits:
        told.prefill([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [2]], 3)
        told.step()
        told.keep([9, 3, 1, 6])
        told.step()
        told.prefill(TEMPLATED[:2], 1)
        told.step()
    told.keep([])
    told.prefill(prompts[:1], 2)
    told.step()


@torch.no_grad()
def test_the_cache_grows_past_its_room_while_rows_are_of_unequal_length(tiny_model):
    told = Told(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval())
    told.prefill(PROMPTS, 2)
    for position in range(70):
        if position in (3, 66):
            told.keep({3: [0, 2, 3, 5], 66: [3, 1]}[position])
        if position == 40:
            told.prefill([[7, 7, 7]], 2)
        told.step(compared=position in (0, 3, 39, 40, 41, 62, 63, 64, 65, 66, 69))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_windows_are_left_to_the_cache_of_transformers_and_admit_nothing(kind):
    told = Told(make(kind, **WINDOW))
    told.prefill(TEMPLATED, 2)
    assert type(told.cached.cache) is RowCache
    assert not told.cached.admits
    for _ in range(8):
        told.step()


@torch.no_grad()
@pytest.mark.parametrize("kind", ALL)
def test_attention_is_replaced_where_it_may_be_and_only_for_the_step(kind):
    model = make(kind)
    cached = CausalLMNextToken(model, shares=kind in SHARED)
    cached.prefill(*pad_left(PROMPTS), 2)
    cached.step(torch.zeros(6, dtype=torch.long))
    assert (type(cached.cache) is GroupCache) == (kind in SHARED)
    assert attention_of(model.config) == "sdpa"


@torch.no_grad()
def test_a_prompt_is_kept_once_for_its_group_and_no_longer_than_a_row_of_it():
    cached = CausalLMNextToken(make("llama"))
    cached.prefill(*pad_left(PROMPTS), 7)
    layer = cached.cache.cache.layers[0]
    assert layer.prompt_keys.shape[0] == 3
    cached.keep(torch.tensor([0, 3, 20]))
    assert layer.prompt_keys.shape[0] == 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lfm2", "gpt2"])
def test_whole_sequences_are_read_for_one_prompt_at_a_time(kind):
    shape = {name: SHAPE[name] for name in SHAPE if kind != "gpt2" or name not in ("head_dim", "num_key_value_heads")}
    options = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **(shape | options)), dtype=torch.float64
    ).eval()
    read = next_token_of(model, "whole")
    assert type(read) is WholeSequences
    assert not read.admits
    for prompts in ([PROMPTS[0]], [PROMPTS[2]]):
        ids, mask = pad_left([*prompts, [0] * 8])
        torch.testing.assert_close(read.prefill(ids[:1], mask[:1], 3), model(torch.tensor(prompts)).logits[:, -1])
        rows = [prompts[0] + [token] for token in (4, 5, 6)]
        torch.testing.assert_close(read.step(torch.tensor([4, 5, 6])), model(torch.tensor(rows)).logits[:, -1])
        read.keep(torch.tensor([2, 0]))
        rows = [rows[2] + [7], rows[0] + [8]]
        torch.testing.assert_close(read.step(torch.tensor([7, 8])), model(torch.tensor(rows)).logits[:, -1])
        read.keep(torch.tensor([], dtype=torch.long))


@torch.no_grad()
def test_states_go_with_their_rows():
    options = {"layer_types": ["conv", "full_attention"]}
    told = Told(make("lfm2", **options))
    told.prefill(PROMPTS[:1], 3)
    assert type(told.cached.cache) is RowCache
    for rows in ([0, 1, 2], [2, 0], [1]):
        told.keep(rows)
        told.step()
        told.step()


def test_room_is_written_in_place_and_a_dropped_row_shares_no_memory_with_the_kept():
    model = make("llama")
    ids, _ = pad_left([[1, 9], [15, 8]])
    cache = with_room(model(ids, use_cache=True).past_key_values)
    assert all(type(layer) is RoomyLayer for layer in cache.layers)
    states = torch.ones(2, *cache.layers[0].keys.shape[1:2], 1, cache.layers[0].keys.shape[-1], dtype=torch.float64)
    layer = cache.layers[0]
    before = layer.keys.clone()
    addresses = set()
    for token in range(10):
        keys, values = layer.update(token * states, -token * states)
        addresses.add(keys.data_ptr())
        assert keys.shape[-2] == values.shape[-2] == layer.get_seq_length() == 3 + token
    assert len(addresses) == 1
    torch.testing.assert_close(keys[:, :, :2], before)
    assert (keys[:, :, 2:, 0] == torch.arange(10)).all()
    assert (values[:, :, 2:, 0] == -torch.arange(10)).all()
    layer.batch_select_indices(torch.tensor([1]))
    layer.update(9 * states[:1], 9 * states[:1])
    torch.testing.assert_close(layer.keys[0, :, :12], keys[1])
    assert keys.shape[-2] == 12
