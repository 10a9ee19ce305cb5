"""Logits from the growing cache are those of reading each sequence whole, whatever rows come and go on the way."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align.compat import attention_of
from lit_align.models.attention import ARCHITECTURES
from lit_align.models.generation.group_cache import GroupCache
from lit_align.models.generation.next_token import CausalLMNextToken
from lit_align.models.generation.row_cache import RoomyLayer, RowCache, with_room
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
        self.model, self.cached, self.histories = model, CausalLMNextToken(model), []

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


ALL = [*sorted(ARCHITECTURES), "phi", "gpt_neox", "cohere"]


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
def test_attention_is_replaced_where_it_is_known_and_only_for_the_step(kind):
    model = make(kind)
    cached = CausalLMNextToken(model)
    cached.prefill(*pad_left(PROMPTS), 2)
    cached.step(torch.zeros(6, dtype=torch.long))
    assert (type(cached.cache) is GroupCache) == (kind in ARCHITECTURES)
    assert attention_of(model.config) == "sdpa"


@torch.no_grad()
def test_a_prompt_is_kept_once_for_its_group_and_no_longer_than_a_row_of_it():
    cached = CausalLMNextToken(make("llama"))
    cached.prefill(*pad_left(PROMPTS), 7)
    layer = cached.cache.cache.layers[0]
    assert layer.prompt_keys.shape[0] == 3
    cached.keep(torch.tensor([0, 3, 20]))
    assert layer.prompt_keys.shape[0] == 2


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
