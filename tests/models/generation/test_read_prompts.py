"""What prompts begin with in common is read once, and changes nothing."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_align.models.generation.read_prompts import read_prompts, shared_tokens
from lit_align.types import pad_left

LONG = list(range(3, 15))


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 2),
        ([[1, 2], [1, 2, 4, 5]], 1),  # the first begins the second: its last token is left to read
        ([[1, 2], [1, 2]], 1),
        ([[1], [1, 2]], 0),
        ([[5, 1, 2], [1, 2, 3]], 0),
        ([[1, 2, 3, 4]], 3),
        ([[0, 0, 1, 2], [0, 0, 2]], 2),  # zeros are tokens where the mask says so
    ],
)
def test_shared_tokens_are_counted_from_each_prompts_own_beginning(prompts, shared):
    assert shared_tokens(*pad_left(prompts)) == shared


@torch.no_grad()
@pytest.mark.parametrize(
    "prompts",
    [
        [[*LONG, 20, 21], [*LONG, 22], LONG],
        [LONG, LONG],
        [[*LONG, 20, 21]],
        [[1, 2], [3]],
    ],
    ids=["template", "equal", "alone", "nothing"],
)
def test_logits_are_those_of_each_prompt_alone_and_shared_tokens_are_read_once(tiny_model, prompts, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()
    expected = torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    read, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: read.append(inputs["input_ids"].numel()) or forward(**inputs)
    )
    logits, cache, columns = read_prompts(model, *pad_left(prompts))
    torch.testing.assert_close(logits, expected)
    assert columns.sum(1).tolist() == [len(prompt) for prompt in prompts]
    assert cache.get_seq_length() == columns.shape[1]
    shared = shared_tokens(*pad_left(prompts)) if len(prompts) > 1 else 0
    width = max(len(prompt) for prompt in prompts)
    assert sum(read) == (shared + len(prompts) * (width - shared) if shared else len(prompts) * width)
