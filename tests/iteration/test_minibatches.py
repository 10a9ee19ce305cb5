"""Minibatches lose and repeat nothing, and splitting a batch does not change its gradient."""

from dataclasses import replace

import pytest
import torch

from lit_align.iteration.minibatches import Minibatches
from lit_align.types import Prompts, Responses, Rollouts, pad_left

LENGTHS = [[3, 1], [2, 2], [1, 4], [5, 2], [1, 1], [2, 3], [1, 2], [4, 4], [2, 1], [1, 1], [3, 3], [2, 6]]


def rollouts(count: int = 12) -> Rollouts:
    """Prompt i has i + 1 tokens and id i; its rewards are i and -i."""
    lengths = torch.tensor(LENGTHS[:count])
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    ids, prompt_mask = pad_left([[7] * (i + 1) for i in range(count)])
    prompts = Prompts(ids, prompt_mask, torch.arange(count), [{"prompt": str(i)} for i in range(count)])
    responses = Responses(prompts, mask.long(), mask, torch.zeros(count, 2, dtype=torch.bool), mask.float())
    rewards = torch.arange(count).float()[:, None] * torch.tensor([1.0, -1.0])
    wins = torch.full((count, 2, 2), 0.5)
    return Rollouts(responses, wins, torch.ones_like(wins).bool(), rewards, reference_token_logps=-mask.float())


def order(minibatches: Minibatches) -> list[int]:
    return [i for batch in minibatches for i in batch.responses.prompts.record_id.tolist()]  # type: ignore[attr-defined]


def minibatches_of(weights: torch.Tensor | None = None, **options) -> Minibatches:
    weights = torch.ones(12) if weights is None else weights
    return Minibatches(rollouts(), weights, **{"batch_size": 2, **options})


@pytest.mark.parametrize("passes", [1, 3])
def test_every_pass_goes_through_every_prompt_once_in_an_order_of_its_own(passes):
    minibatches = minibatches_of(passes=passes, seed=3)
    assert len(minibatches) == 6 * passes
    each = [order(minibatches)[12 * i : 12 * (i + 1)] for i in range(passes)]
    assert all(sorted(one) == list(range(12)) for one in each)
    assert len({tuple(one) for one in each}) == passes
    assert each[0] != list(range(12))


def test_the_order_is_a_function_of_the_seed_alone():
    assert order(minibatches_of(seed=1)) == order(minibatches_of(torch.arange(12.0), seed=1, batch_size=3, window=2))
    torch.manual_seed(99)
    assert order(minibatches_of(seed=1)) == order(minibatches_of(seed=1))
    assert order(minibatches_of(seed=1)) != order(minibatches_of(seed=2))


def test_what_belongs_to_a_prompt_stays_with_it():
    for batch in minibatches_of(batch_size=5, seed=4):  # type: ignore[attr-defined]
        ids = batch.responses.prompts.record_id
        assert batch.rewards.tolist() == [[i, -i] for i in ids.tolist()]
        assert batch.responses.lengths.tolist() == [LENGTHS[i] for i in ids]
        assert batch.responses.prompts.mask.sum(1).tolist() == [i + 1 for i in ids]
        assert [int(record["prompt"]) for record in batch.responses.prompts.records] == ids.tolist()
        torch.testing.assert_close(batch.reference_logps, -batch.responses.lengths.float())


def test_a_minibatch_is_as_wide_as_its_own_longest_prompt_and_response():
    for batch in minibatches_of(seed=5):  # type: ignore[attr-defined]
        assert batch.responses.ids.shape[-1] == batch.responses.lengths.max()
        assert batch.responses.prompts.ids.shape[-1] == batch.responses.prompts.mask.sum(1).max()
        assert batch.reference_token_logps.shape == batch.responses.ids.shape


@pytest.mark.parametrize(("batch_size", "window", "passes"), [(1, 12, 1), (2, 3, 1), (3, 2, 2), (4, 1, 1), (2, 6, 1)])
def test_accumulated_minibatches_are_one_large_batch(batch_size, window, passes):
    torch.manual_seed(1)
    weights, loss = torch.randint(0, 5, (12,)).float(), torch.randn(12)
    minibatches = minibatches_of(weights, batch_size=batch_size, window=window, passes=passes)
    batches = [minibatches[i] for i in range(len(minibatches))]
    for start in range(0, len(batches), window):
        step = batches[start : start + window]
        rows = [b.responses.prompts.record_id for b in step]
        # What Lightning does: divides each loss by the window and adds up the gradients.
        accumulated = sum(
            (weights[r] * loss[r]).sum() / b.window_weight / window for r, b in zip(rows, step, strict=True)
        )
        large = torch.cat(rows)
        torch.testing.assert_close(accumulated, (weights[large] * loss[large]).sum() / weights[large].sum())


@pytest.mark.parametrize(("world_size", "window"), [(2, 1), (2, 3), (3, 2), (3, 1)])
def test_ranks_share_each_step_of_one_large_batch_and_their_mean_gradient_is_its_gradient(world_size, window):
    torch.manual_seed(1)
    weights, loss = torch.randint(0, 5, (12,)).float(), torch.randn(12)
    options = {"passes": 3, "phases": 2, "seed": 7}
    together = minibatches_of(weights, batch_size=2 * world_size, window=window, **options)
    ranks = [
        minibatches_of(weights, window=window, rank=r, world_size=world_size, **options) for r in range(world_size)
    ]
    assert all(len(rank) == len(together) for rank in ranks)
    for index in range(len(together)):
        large, shares = together[index], [rank[index] for rank in ranks]
        ids = [share.responses.prompts.record_id for share in shares]
        assert torch.cat(ids).tolist() == large.responses.prompts.record_id.tolist()
        assert {share.phase for share in shares} == {large.phase}
        # What DDP does: averages the gradients of the ranks.
        mean = (
            sum((weights[i] * loss[i]).sum() / s.window_weight for i, s in zip(ids, shares, strict=True)) / world_size
        )
        rows = large.responses.prompts.record_id
        torch.testing.assert_close(mean, (weights[rows] * loss[rows]).sum() / large.window_weight)


@pytest.mark.parametrize("index", [6, -1])
def test_there_is_nothing_beyond_the_ends(index):
    with pytest.raises(IndexError):
        minibatches_of()[index]


def test_the_rollouts_are_left_as_they_are():
    whole = rollouts()
    before = replace(whole)
    Minibatches(whole, torch.ones(12), batch_size=4)[0]
    assert whole == before
    assert whole.window_weight is None


def test_phases_follow_one_another_each_with_every_prompt_in_each_of_its_passes():
    minibatches = minibatches_of(phases=2, passes=2, batch_size=4, window=3)
    phases = [batch.phase for batch in minibatches]  # type: ignore[attr-defined]
    assert phases == [0] * 6 + [1] * 6
    for start in range(0, 48, 12):
        assert sorted(order(minibatches)[start : start + 12]) == list(range(12))
