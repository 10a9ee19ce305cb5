"""The token-wise mixture: its ends, its law at every prefix, and a language model that is unchanged by it."""

import itertools
from dataclasses import replace

import pytest
import torch

from lit_align import LanguageModel, LoRA, Sampler
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.generate import generate
from lit_align.sampling.mixture import Mixture
from lit_align.sampling.uniforms import token_uniforms
from tests.conftest import prompts_of
from tests.draws import recorded, same_draws
from tests.rounding import AGAIN, assert_same_but_rounding, steps_of
from tests.sampling.chain import EOS, STATES, VOCABULARY, Chain, prompts


def tables():
    generator = torch.Generator().manual_seed(11)
    return torch.randn(2, STATES, VOCABULARY, generator=generator, dtype=torch.float64)


def mixture(weight):
    policy, reference = tables()
    return Mixture(Chain(policy), Chain(reference), weight)


def prefixes(length=3):
    return torch.tensor(list(itertools.product(range(VOCABULARY), repeat=length)))


def laws(model, tokens):
    """Next-token laws [rows, length + 1, vocab] along the given rows, from one prompt."""
    prompt = prompts().select([5])
    logits = [model.prefill(prompt.ids, prompt.mask, len(tokens)).expand(len(tokens), -1)]
    logits += [model.step(column) for column in tokens.T]
    return torch.stack(logits, dim=1).softmax(-1)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_the_law_after_every_prefix_is_the_normalised_geometric_mixture(weight):
    rows = prefixes(2)
    first, second = (laws(Chain(table), rows) for table in tables())
    expected = first ** (1 - weight) * second**weight
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(laws(mixture(weight), rows), expected)


@pytest.mark.parametrize(("weight", "end"), [(0.0, 0), (1.0, 1)])
def test_a_weight_of_zero_draws_from_the_policy_and_one_from_the_reference(weight, end):
    some, decoding = prompts(), Decoding(max_new_tokens=8)
    uniforms = token_uniforms(some.record_id, 20, 8, seed=3, iteration=0)
    drawn, plain = (
        generate(model, some.ids, some.mask, uniforms, decoding, EOS)
        for model in (mixture(weight), Chain(tables()[end]))
    )
    assert torch.equal(drawn[0], plain[0])
    assert torch.equal(drawn[2], plain[2])
    torch.testing.assert_close(drawn[1], plain[1])


def test_logits_may_have_any_constant_and_the_mixture_stays_the_same():
    policy, reference = tables()
    shifted = Mixture(Chain(policy + 40), Chain(reference - 7), 0.3)
    torch.testing.assert_close(laws(shifted, prefixes(2)), laws(mixture(0.3), prefixes(2)))


def test_rows_that_are_dropped_are_dropped_in_both():
    rows, kept = prefixes(3)[::9], torch.tensor([1, 4, 30])
    model, prompt = mixture(0.4), prompts().select([5])
    expected = laws(mixture(0.4), rows)[kept, 3]
    model.prefill(prompt.ids, prompt.mask, len(rows))
    model.step(rows[:, 0])
    model.keep(kept)
    model.step(rows[kept, 1])
    torch.testing.assert_close(model.step(rows[kept, 2]).softmax(-1), expected)


def test_log_probs_of_draws_are_those_of_the_mixture():
    some, decoding = prompts(), Decoding(max_new_tokens=6)
    uniforms = token_uniforms(some.record_id, 10, 6, seed=3, iteration=0)
    ids, logps, lengths = generate(mixture(0.4), some.ids, some.mask, uniforms, decoding, EOS)
    for row in (5, 7):
        prompt = some.select([row])
        for k in range(10):
            tokens = ids[row, k, : lengths[row, k]]
            model = mixture(0.4)
            logits = [model.prefill(prompt.ids, prompt.mask, 1), *(model.step(token[None]) for token in tokens[:-1])]
            expected = torch.cat(logits).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
            torch.testing.assert_close(logps[row, k, : len(tokens)], expected.float())


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_a_weight_outside_the_unit_interval_is_refused(weight):
    with pytest.raises(ValueError, match=r"mixture must lie in \[0, 1\]"):
        Sampler(mixture=weight)


# ------------------------------------------------------------------ the language model


@pytest.fixture(params=[None, LoRA(rank=4)], ids=["full", "lora"])
def model(request, tiny_model):
    """A policy away from its reference."""
    model = LanguageModel(tiny_model, lora=request.param)
    model.load()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def draw(model, *sources, mixture=0.5):
    sampler = Sampler(sources=sources, max_new_tokens=8, mixture=mixture)
    return sampler.respond(model, model.encode(prompts_of(5)), seed=1, iteration=0)


def assert_same_draws(found, expected, margins):
    if same_draws(found, expected, margins, within=steps_of(torch.float32, 8, AGAIN)):
        assert_same_but_rounding(found.sample_logps, expected.sample_logps)


@torch.no_grad()
def next_token_logps(model, source, ids):
    """By a plain forward pass over a whole sequence."""
    if source == "policy":
        return model.model(ids[None]).logits[0].log_softmax(-1)
    if model.lora is None:
        return model.frozen(ids[None]).logits[0].log_softmax(-1)
    with model.model.disable_adapter():
        return model.model(ids[None]).logits[0].log_softmax(-1)


def test_a_language_model_mixes_the_logits_of_policy_and_reference(model):
    weight = 0.3
    drawn = draw(model, *["mixture"] * 4, mixture=weight)
    model.eval()
    gaps = []
    for row in range(5):
        prompt = drawn.prompts.ids[row][drawn.prompts.mask[row]]
        for k in range(4):
            response = drawn.ids[row, k][drawn.mask[row, k]]
            ids = torch.cat([prompt, response])
            both = [next_token_logps(model, source, ids)[len(prompt) - 1 : -1] for source in ("policy", "reference")]
            mixed = ((1 - weight) * both[0] + weight * both[1]).log_softmax(-1)
            at = response[:, None]
            expected = mixed.gather(-1, at)[:, 0]
            assert_same_but_rounding(drawn.sample_logps[row, k, : len(response)], expected)
            gaps.append((both[0].gather(-1, at)[:, 0] - expected).abs().max())
    assert max(gaps) > 0.05
    assert drawn.source == ("mixture",) * 4


@pytest.mark.parametrize(("weight", "end"), [(0.0, "policy"), (1.0, "reference")])
def test_the_ends_of_the_mixture_draw_what_policy_and_reference_draw(model, weight, end):
    with recorded() as margins:
        plain = draw(model, *[end] * 4)
    assert_same_draws(draw(model, *["mixture"] * 4, mixture=weight), plain, margins)


def test_slots_of_one_group_are_each_drawn_by_their_source(model):
    with recorded() as margins:
        together = draw(model, "mixture", "policy", "reference", "mixture")
    alone = [draw(model, *[source] * 4) for source in together.source]
    names = ("ids", "mask", "sample_logps")
    slots = {name: [getattr(drawn, name)[:, slot] for slot, drawn in enumerate(alone)] for name in names}
    assert_same_draws(replace(together, **{name: torch.stack(slots[name], 1) for name in names}), together, margins)


@pytest.mark.parametrize("training", [True, False])
def test_policy_and_reference_are_themselves_after_drawing_from_their_mixture(model, training):
    drawn = draw(model, "policy", "policy")
    model.train(training)
    with torch.no_grad():
        before = [model.logps(drawn, source) for source in ("policy", "reference")]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    modes = {name: module.training for name, module in model.named_modules()}
    draw(model, "mixture", "mixture")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    assert {name: module.training for name, module in model.named_modules()} == modes
    with torch.no_grad():
        after = [model.logps(drawn, source) for source in ("policy", "reference")]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert (after[0] - after[1]).abs().max() > 0.05
    model.logps(replace(drawn)).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == trainable
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters() if parameter.requires_grad)


def test_a_source_that_does_not_exist_is_refused(model):
    with pytest.raises(ValueError, match="unknown source 'anchor'"):
        draw(model, "anchor")
    with pytest.raises(ValueError, match="unknown source 'mixture'"):
        model.logps(draw(model, "policy"), "mixture")
