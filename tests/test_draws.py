"""What these tests take for a tie is one, and nothing else is."""

from dataclasses import replace

import pytest

from lit_align import LanguageModel, Sampler
from lit_align.sampling.uniforms import token_uniforms
from tests.conftest import prompts_of
from tests.draws import recorded, same_draws

SEED = 3


@pytest.fixture
def drawn(tiny_model):
    """Responses, and the margins of their tokens."""
    policy = LanguageModel(tiny_model)
    policy.load()
    with recorded() as margins:
        responses = Sampler(group_size=3, max_new_tokens=6).respond(
            policy, policy.encode(prompts_of(5)), seed=SEED, iteration=1
        )
    return responses, margins


def with_another_token(responses, place):
    ids = responses.ids.clone()
    ids[place] += 1
    return replace(responses, ids=ids)


def test_a_margin_is_what_the_number_can_move_by_before_another_token_is_drawn(drawn):
    responses, margins = drawn
    uniforms = token_uniforms(responses.prompts.record_id, 3, 6, seed=SEED, iteration=1)[responses.mask]
    chances = responses.sample_logps[responses.mask].exp()
    for uniform, chance in zip(uniforms.tolist(), chances.tolist(), strict=True):
        assert -1e-6 < margins[uniform] <= chance / 2 + 1e-6
    assert max(margins.values()) > 0.1


def test_the_same_tokens_are_the_same(drawn):
    responses, margins = drawn
    assert same_draws(responses, responses, margins, within=0.0)


def test_another_token_is_a_mistake_unless_the_number_lay_at_the_border(drawn):
    responses, margins = drawn
    place = (2, 1, 0)
    other = with_another_token(responses, place)
    with pytest.raises(AssertionError, match=r"at \[2, 1, 0\] another token was drawn"):
        same_draws(other, responses, margins, within=1e-5)
    uniform = float(token_uniforms(responses.prompts.record_id, 3, 6, seed=SEED, iteration=1)[place])
    assert not same_draws(other, responses, margins | {uniform: 1e-6}, within=1e-5)


def test_only_the_first_token_of_a_row_can_excuse_the_others(drawn):
    responses, margins = drawn
    place = next(tuple(place) for place in responses.mask.nonzero().tolist() if place[-1] == 1)
    first = (*place[:-1], 0)
    uniform = float(token_uniforms(responses.prompts.record_id, 3, 6, seed=SEED, iteration=1)[first])
    both = with_another_token(with_another_token(responses, first), place)
    assert not same_draws(both, responses, margins | {uniform: 0.0}, within=1e-5)
    with pytest.raises(AssertionError, match="another token"):
        same_draws(with_another_token(responses, place), responses, margins | {uniform: 0.0}, within=1e-5)
