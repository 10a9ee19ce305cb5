"""Prompts, responses, rollouts: win rates, sums that ignore padding, selecting and trimming."""

from dataclasses import replace

import pytest
import torch

from lit_align.types import Prompts, Responses, Rollouts, masked_sum, pad_left, prompt_text

PROMPTS = [[5, 6, 7], [8], [9, 10]]
LENGTHS = [[2, 1], [3, 3], [1, 4]]
TOKEN_LOGPS = ("anchor_token_logps", "reference_token_logps", "current_token_logps")


def responses(width=6, extra=2) -> Responses:
    """Three prompts of unequal length, two responses each, with more padding than needed."""
    ids, mask = pad_left([[0] * 4, *PROMPTS])
    prompts = Prompts(ids[1:], mask[1:], torch.tensor([11, 22, 33]), [{"prompt": f"p{i}"} for i in range(3)])
    counts = torch.tensor(LENGTHS)
    return Responses(
        prompts=prompts,
        ids=torch.arange(3 * 2 * width).view(3, 2, width),
        mask=torch.arange(width) < counts[..., None],
        truncated=counts == 4,
        sample_logps=torch.randn(3, 2, width),
        source=("policy",) * 2,
        iteration=3,
        seed=4,
    )


def rollouts() -> Rollouts:
    wins = torch.tensor([[0.5, 0.9], [0.1, 0.5]]).expand(3, 2, 2)
    return Rollouts(
        responses=responses(),
        wins=wins,
        compared=torch.ones(3, 2, 2, dtype=torch.bool),
        rewards=torch.randn(3, 2),
        anchor_token_logps=torch.randn(3, 2, 6),
        reference_token_logps=torch.randn(3, 2, 6),
        current_token_logps=torch.randn(3, 2, 6),
        baselines=torch.randn(3),
    )


def group(wins, compared=None, weights=None) -> Rollouts:
    """One group of three, for its win rates."""
    ones = torch.ones(1, 3, dtype=torch.long)
    prompts = Prompts(ones[:, :1], ones[:, :1].bool(), torch.tensor([0]), [{"prompt": "p"}])
    answers = Responses(prompts, ones[..., None], ones[..., None].bool(), ones.bool(), torch.zeros(1, 3, 1))
    full = torch.ones(1, 3, 3, dtype=torch.bool)
    return Rollouts(
        answers, torch.tensor([wins]), full if compared is None else torch.tensor([compared]), None, weights
    )


WINS = [[0.5, 1.0, 0.8], [0.0, 0.5, 0.3], [0.2, 0.7, 0.5]]


def test_win_rates_include_the_response_itself():
    expected = torch.tensor([[2.3, 0.8, 1.4]]) / 3
    torch.testing.assert_close(group(WINS).win_rates, expected)
    assert expected.mean() == pytest.approx(0.5)


def test_a_missing_comparison_is_left_out_and_is_not_a_tie():
    compared = [[True, False, True], [False, True, True], [True, True, True]]
    others = torch.tensor([[0.8, 0.3, 0.45]])
    torch.testing.assert_close(group(WINS, compared).win_rates, 0.5 + 2 / 3 * (others - 0.5))


def test_a_response_that_was_never_compared_does_not_count_in_the_size_of_its_group():
    compared = [[True, False, True], [False, True, False], [True, False, True]]
    assert group(WINS, compared).met.tolist() == [[True, False, True]]
    torch.testing.assert_close(group(WINS, compared).win_rates, torch.tensor([[1.3 / 2, 0.5, 0.7 / 2]]))


def test_weights_weigh_the_opponents():
    weights = torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(group(WINS, weights=weights).win_rates, (torch.tensor(WINS) @ weights[0])[None])
    compared = [[True, False, True], [False, True, True], [True, True, True]]
    first = (0.5 * 0.2 + 0.8 * 0.5) / 0.7
    assert group(WINS, compared, weights).win_rates[0, 0].item() == pytest.approx(first)


def test_slots_are_those_that_a_source_drew():
    some = group(WINS)
    some = replace(some, responses=replace(some.responses, source=("anchor", "policy", "anchor")))
    assert [some.slots(name) for name in ("policy", "anchor", "reference")] == [[1], [0, 2], []]


def test_win_rates_against_others_leave_the_response_itself_out():
    expected = torch.tensor([[1.8 / 2, 0.3 / 2, 0.9 / 2]])
    some = group(WINS)
    torch.testing.assert_close(some.win_rates_against_others, expected)
    torch.testing.assert_close(some.win_rates, (2 * expected + 0.5) / 3)


def test_win_rates_against_others_leave_missing_comparisons_out_and_are_a_half_without_any():
    compared = [[True, False, True], [False, True, False], [True, False, True]]
    expected = torch.tensor([[0.8, 0.5, 0.2]])
    torch.testing.assert_close(group(WINS, compared).win_rates_against_others, expected)
    unknown = [[0.5, float("nan"), 0.8], [float("nan"), 0.5, float("nan")], [0.2, float("nan"), 0.5]]
    torch.testing.assert_close(group(unknown, compared).win_rates_against_others, expected)


def test_where_all_responses_are_enumerated_a_response_is_among_those_it_meets():
    some = group(WINS, weights=torch.tensor([[0.2, 0.3, 0.5]]))
    torch.testing.assert_close(some.win_rates_against_others, some.win_rates)


def test_win_rates_between_slots_are_means_over_the_second():
    rates, met = group(WINS).win_rates_between([1], [0, 2])
    torch.testing.assert_close(rates, torch.tensor([[0.3 / 2]]))
    rates, met = group(WINS).win_rates_between([2, 0], [1])
    torch.testing.assert_close(rates, torch.tensor([[0.7, 1.0]]))
    assert met.tolist() == [[True, True]]


def test_win_rates_between_slots_leave_missing_comparisons_out():
    compared = [[True, False, False], [False, True, True], [False, True, True]]
    rates, met = group(WINS, compared).win_rates_between([0, 1], [1, 2])
    torch.testing.assert_close(rates, torch.tensor([[0.5, 0.8 / 2]]))
    assert met.tolist() == [[False, True]]


def test_win_rates_between_slots_weigh_the_second_by_their_probability():
    weights = torch.tensor([[1.0, 0.2, 0.8]])  # one of a source, two of another
    rates, _ = group(WINS, weights=weights).win_rates_between([0], [1, 2])
    torch.testing.assert_close(rates, torch.tensor([[0.2 * 1.0 + 0.8 * 0.8]]))
    rates, _ = group(WINS, weights=weights / 3).win_rates_between([0], [1, 2])
    torch.testing.assert_close(rates, torch.tensor([[0.2 * 1.0 + 0.8 * 0.8]]))
    compared = [[True, False, True], [False, True, True], [True, True, True]]
    rates, _ = group(WINS, compared, weights).win_rates_between([0], [1, 2])
    torch.testing.assert_close(rates, torch.tensor([[0.8]]))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_what_lies_under_the_mask_reaches_neither_sums_nor_gradients(garbage):
    mask = responses().mask
    clean = torch.randn(3, 2, 6).requires_grad_()
    dirty = clean.detach().masked_fill(~mask, garbage).requires_grad_()
    expected = torch.stack([torch.stack([clean[b, k, : LENGTHS[b][k]].sum() for k in range(2)]) for b in range(3)])
    torch.testing.assert_close(masked_sum(clean, mask), expected)
    torch.testing.assert_close(masked_sum(dirty, mask), expected)
    masked_sum(dirty, mask).sum().backward()
    torch.testing.assert_close(dirty.grad, mask.float())


def test_sequence_log_probs_are_masked_sums_and_missing_ones_are_named():
    some = rollouts()
    torch.testing.assert_close(some.anchor_logps, masked_sum(some.anchor_token_logps, some.responses.mask))
    torch.testing.assert_close(some.reference_logps, masked_sum(some.reference_token_logps, some.responses.mask))
    torch.testing.assert_close(some.current_logps, masked_sum(some.current_token_logps, some.responses.mask))
    with pytest.raises(RuntimeError, match="no policy log-probs"):
        _ = some.policy_logps


def test_selecting_takes_every_field_of_the_rows_asked_for_in_their_order():
    some = rollouts()
    picked = some.select([2, 0])
    assert picked.responses.prompts.records == [{"prompt": "p2"}, {"prompt": "p0"}]
    assert picked.responses.prompts.texts == ["p2", "p0"]
    assert picked.responses.prompts.record_id.tolist() == [33, 11]
    names = ("wins", "compared", "rewards", "baselines", *TOKEN_LOGPS)
    for name in names:
        assert torch.equal(getattr(picked, name), getattr(some, name)[[2, 0]])
    for name in ("ids", "mask", "truncated", "sample_logps"):
        assert torch.equal(getattr(picked.responses, name), getattr(some.responses, name)[[2, 0]])
    assert (picked.weights, picked.policy_token_logps) == (None, None)
    assert (picked.responses.source, picked.responses.iteration, picked.responses.seed) == (("policy",) * 2, 3, 4)
    back = picked.select([1, 0])
    assert torch.equal(back.responses.ids, some.responses.ids[[0, 2]])


def test_trimming_removes_shared_padding_only():
    some = rollouts()
    trimmed = some.trim()
    assert trimmed.responses.prompts.ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 10]]
    assert trimmed.responses.prompts.mask.sum(1).tolist() == [3, 1, 2]
    assert trimmed.responses.ids.shape == (3, 2, 4)
    assert trimmed.responses.lengths.tolist() == some.responses.lengths.tolist() == LENGTHS
    for name in TOKEN_LOGPS:
        assert torch.equal(getattr(trimmed, name), getattr(some, name)[..., :4])
    assert torch.equal(trimmed.responses.sample_logps, some.responses.sample_logps[..., :4])
    torch.testing.assert_close(trimmed.anchor_logps, some.anchor_logps)
    again = trimmed.trim()
    assert torch.equal(again.responses.ids, trimmed.responses.ids)
    assert torch.equal(again.responses.prompts.ids, trimmed.responses.prompts.ids)


def test_trimming_after_selecting_is_as_narrow_as_the_rows_left():
    one = rollouts().select([1]).trim()
    assert one.responses.prompts.ids.tolist() == [[8]]
    assert one.responses.ids.shape == (1, 2, 3)


@pytest.mark.parametrize("pad", [0, 7])
def test_masks_come_from_lengths_even_where_padding_is_a_real_token(pad):
    ids, mask = pad_left([[7, 7], [0], [1, 7, 0]], pad=pad)
    assert ids.tolist() == [[pad, 7, 7], [pad, pad, 0], [1, 7, 0]]
    assert mask.tolist() == [[False, True, True], [False, False, True], [True, True, True]]


def test_the_text_of_a_prompt_is_what_was_asked_last():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert prompt_text({"messages": chat}) == "c"
    assert prompt_text({"prompt": "d", "messages": chat}) == "d"
