"""Logits from the growing cache are those of reading each sequence whole, whatever rows are dropped on the way."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_align.models.cache import RoomyLayer, with_room
from lit_align.models.cached import CachedModel
from lit_align.types import pad_left

PROMPTS = [[1, 9, 12, 7, 20], [15], [1, 8]]


@pytest.fixture
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()


@torch.no_grad()
def test_logits_are_those_of_whole_sequences_past_every_growth_of_the_cache_and_after_dropping_rows(model):
    cached, (ids, mask) = CachedModel(model), pad_left(PROMPTS)
    first = cached.prefill(ids, mask, 2)
    histories = [list(prompt) for prompt in PROMPTS for _ in range(2)]
    for b, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(first[b], model(torch.tensor([prompt])).logits[0, -1])
    drops = {3: [0, 2, 3, 5], 64: [3, 1], 66: [1]}
    for position in range(70):
        if position in drops:
            cached.keep(torch.tensor(drops[position]))
            histories = [histories[row] for row in drops[position]]
        tokens = torch.randint(28, (len(histories),))
        logits = cached.step(tokens)
        for row, (history, token) in enumerate(zip(histories, tokens.tolist(), strict=True)):
            history.append(token)
            if position in (0, 1, 3, 4, 62, 63, 64, 65, 66, 69):
                torch.testing.assert_close(logits[row], model(torch.tensor([history])).logits[0, -1])


def test_room_is_written_in_place_and_a_dropped_row_shares_no_memory_with_the_kept(model):
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
