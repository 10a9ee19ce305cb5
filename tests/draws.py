"""Two runs draw the same tokens, except where rounding alone decides between two of them.

A token is drawn by inverse CDF from one uniform number, which does not depend on the batch. Where the number lies as
near the border between two tokens as rounding moves that border, either may be drawn, and all that follows is another
story. Recording how near each number lay tells such a tie from a mistake.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lit_align.sampling import generate
from lit_align.sampling.decoding import draw
from lit_align.sampling.uniforms import token_uniforms
from lit_align.types import Responses

Margins = dict[float, float]
"""By uniform number: its distance, in probability, from the border of the token that it drew."""


@contextmanager
def recorded() -> Iterator[Margins]:
    """The margins of all that is drawn inside."""
    margins: Margins = {}

    def draw_and_record(scores: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, logps = draw(scores, uniforms)
        chances = scores.double().softmax(-1)
        ends = chances.cumsum(-1).gather(-1, tokens[:, None]).squeeze(-1)
        begins = ends - chances.gather(-1, tokens[:, None]).squeeze(-1)
        for number, low, high in zip(uniforms.tolist(), begins.tolist(), ends.tolist(), strict=True):
            margins.setdefault(number, min(number - low, high - number))
        return tokens, logps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "draw", draw_and_record)
        yield margins


def same_draws(found: Responses, expected: Responses, margins: Margins, within: float) -> bool:
    """Whether all tokens are the same; fails where the first other token of a row is no tie.

    Args:
        found: Drawn with the seed of the others.
        expected: Drawn while ``margins`` were recorded.
        margins: Of those draws.
        within: How far rounding may move a border, in probability: at most as far as log-probabilities, in nats.
    """
    assert torch.equal(found.prompts.record_id, expected.prompts.record_id)
    assert found.group_size == expected.group_size
    width = min(found.ids.shape[-1], expected.ids.shape[-1])
    tokens = [torch.where(some.mask, some.ids, -1)[..., :width] for some in (found, expected)]
    other = tokens[0] != tokens[1]
    uniforms = token_uniforms(
        expected.prompts.record_id, expected.group_size, width, seed=expected.seed, iteration=expected.iteration
    )
    first = other & (other.cumsum(-1) == 1)
    for place in first.nonzero().tolist():
        margin = margins[float(uniforms[tuple(place)])]
        assert margin <= within, f"at {place} another token was drawn, {margin:.1e} away from the number"
    return not other.any() and torch.equal(found.lengths, expected.lengths)
