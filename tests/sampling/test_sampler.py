"""The sampler: what is drawn depends on the prompt, the seed and the iteration, not on how the work is cut up."""

import itertools
import logging
from dataclasses import replace

import pytest
import torch

from lit_align import Sampler
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.sampler import sampling_in_halves
from tests.sampling.chain import EOS, ChainPolicy, prompts


def sample(some=None, policy=None, *, seed=1, iteration=2, sources=None, report=None, **options):
    sampler = Sampler(**{"group_size": 3, "max_new_tokens": 8, **options})
    return sampler.respond(
        policy or ChainPolicy(),
        prompts() if some is None else some,
        seed=seed,
        iteration=iteration,
        sources=sources,
        report=report,
    )


def assert_same(first, second):
    assert torch.equal(first.prompts.record_id, second.prompts.record_id)
    for name in ("ids", "mask", "truncated", "sample_logps"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("budget", [1, 60, 130, 500])
def test_the_token_budget_bounds_the_prompts_under_way_at_once_and_changes_nothing(budget):
    policy = ChainPolicy()
    drawn = sample(policy=policy, token_budget=budget)
    assert_same(drawn, sample())
    assert all(rows == 1 or rows * 3 * (width + 8) <= budget for rows, width in policy.batches)
    assert (max(rows for rows, _ in policy.batches) == 1) == (budget < 72)


def test_halving_makes_the_prompts_under_way_at_once_fewer():
    halving, policy = sampling_in_halves(), ChainPolicy()
    halving.parts = 4
    Sampler(group_size=3, max_new_tokens=8).respond(policy, prompts(8), seed=1, iteration=2, halving=halving)
    assert [rows for rows, _ in policy.batches] == [2, 2, 2, 2]


def test_micro_batches_go_from_short_to_long_and_are_as_full_as_the_budget_allows():
    batches = Sampler(group_size=3, max_new_tokens=8, token_budget=130).micro_batches(prompts(), 3)
    lengths = prompts().mask.sum(1)
    order = [row for rows in batches for row in rows]
    assert sorted(order) == list(range(9))
    assert (lengths[order].diff() >= 0).all()
    for rows, following in itertools.pairwise(batches):
        assert (len(rows) + 1) * 3 * (int(lengths[following[0]]) + 8) > 130


def test_order_and_company_of_the_prompts_change_nothing():
    whole, order = sample(), [7, 2, 8, 0]
    some = sample(prompts().select(order), token_budget=100)
    assert_same(some, whole.select(order))
    assert some.prompts.records == [prompts().records[row] for row in order]


def test_a_larger_group_keeps_the_responses_of_a_smaller_one():
    assert torch.equal(sample(group_size=5).ids[:, :3], sample().ids)


def test_a_slot_draws_the_same_whoever_draws_the_others():
    sources = ("anchor", "policy", "anchor", "reference")
    mixed = sample(sources=sources)
    assert mixed.source == sources
    assert torch.equal(mixed.ids, sample(sources=("policy",) * 4).ids)  # a chain is the same chain under any name


def test_each_slot_is_drawn_by_its_source():
    class Named(ChainPolicy):
        def sample(self, prompts, uniforms, decoding, source, at_once=0):
            drawn = super().sample(prompts, uniforms, decoding, source, at_once)
            return replace(drawn, ids=torch.full_like(drawn.ids, len(source)))

    drawn = sample(policy=Named(), sources=("reference", "policy", "reference", "mixture"))
    assert drawn.ids[0, :, 0].tolist() == [9, 6, 9, 7]


def test_sources_set_the_size_of_the_group():
    assert Sampler(group_size=8, sources=("policy", "anchor", "anchor")).group_size == 3
    assert Sampler(group_size=2).slots == ("policy", "policy")


def test_seeds_and_iterations_draw_afresh():
    base = sample().ids
    for other in (sample(seed=2).ids, sample(iteration=3).ids):
        assert (base != other).any(-1).float().mean() > 0.5


def test_responses_of_a_group_differ_and_carry_their_marks():
    drawn = sample(sources=("reference",) * 20)
    assert drawn.source == ("reference",) * 20
    assert (drawn.iteration, drawn.seed) == (2, 1)
    assert drawn.ids.shape == (9, 20, 8)
    assert all(len({tuple(y) for y in group}) > 1 for group in drawn.ids.tolist())
    last = drawn.ids.gather(-1, (drawn.lengths - 1)[..., None]).squeeze(-1)
    assert torch.equal(drawn.truncated, ~torch.isin(last, EOS))


def test_progress_reports_add_up_to_all_prompts_and_tokens():
    told = []
    drawn = sample(token_budget=60, report=lambda *counts: told.append(counts))
    assert len(told) > 1
    assert sum(done for done, _ in told) == 9
    assert sum(tokens for _, tokens in told) == int(drawn.mask.sum())


def test_the_law_of_a_sampler_is_its_settings_but_how_many_and_how_wide():
    law = {"max_new_tokens": 5, "temperature": 0.7, "top_k": 4, "top_p": 0.9, "mixture": 0.2}
    assert Sampler(**law).decoding == Decoding(**law)
    assert Sampler(**law, group_size=2, token_budget=100).decoding == Decoding(**law)
    assert Sampler().decoding == Decoding()


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}])
def test_a_law_other_than_the_policys_is_warned_of(caplog, options):
    with caplog.at_level(logging.WARNING, "lit_align"):
        Sampler().warn_if_not_policy()
        assert caplog.text == ""
        Sampler(**options).warn_if_not_policy()
    name, value = next(iter(options.items()))
    assert f"{name} {value}" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 0},
        {"max_new_tokens": 0},
        {"token_budget": 0},
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampler(**options)
