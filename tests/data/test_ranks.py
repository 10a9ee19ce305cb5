"""What ranks have made of their shares is put together again as if one device had made it all."""

from dataclasses import fields, replace

import pytest
import torch

from lit_align.data.ranks import from_all_ranks, gathered, interleaved, load_answers, order_of_shares
from lit_align.data.rollout_store import save_rollouts
from lit_align.types import Prompts, Responses, Rollouts, pad_left


def rollouts(count: int) -> Rollouts:
    """Rollouts in which everything is different for every prompt; one is as wide as what is in it."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 9, (count, 3))
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    ids, prompt_mask = pad_left([[i + 1] * (1 + i * 5 % 7) for i in range(count)])
    prompts = Prompts(ids, prompt_mask, torch.arange(count) + 100, [{"prompt": str(i)} for i in range(count)])
    tokens = torch.randint(1, 50, mask.shape) * mask
    values = [torch.randn(mask.shape) * mask for _ in range(4)]
    responses = Responses(prompts, tokens, mask, lengths > 6, values[0], ("policy",) * 3, iteration=4, seed=5)
    return Rollouts(
        responses,
        torch.rand(count, 3, 3),
        torch.rand(count, 3, 3) < 0.5,
        rewards=torch.randn(count, 3),
        anchor_token_logps=values[1],
        reference_token_logps=values[2],
        current_token_logps=values[3],
    )


def assert_same(first, second):
    for item in fields(first):
        one, other = getattr(first, item.name), getattr(second, item.name)
        if isinstance(one, Prompts | Responses):
            assert_same(one, other)
        elif isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, msg=item.name)
        else:
            assert one == other, item.name


@pytest.mark.parametrize(("count", "world_size"), [(6, 2), (7, 2), (5, 3), (4, 4), (3, 1)])
def test_shares_that_were_dealt_out_and_trimmed_are_the_whole_again(count, world_size):
    whole = rollouts(count).trim()
    shares = [whole.select(range(rank, count, world_size)).trim() for rank in range(world_size)]
    assert_same(interleaved(shares), whole)


@pytest.mark.parametrize("sizes", [[3, 3], [3, 2], [2, 2, 1], [4], [1, 1, 1]])
def test_items_are_dealt_in_turn(sizes):
    dealt = sorted(range(sum(sizes)), key=lambda item: item % len(sizes))  # one rank after the other
    assert [dealt[place] for place in order_of_shares(sizes)] == list(range(sum(sizes)))


def test_a_single_rank_has_everything_already():
    alone = rollouts(3)
    assert gathered(alone, 1) is alone
    assert from_all_ranks("mine", 1) == ["mine"]


def test_answers_of_all_ranks_are_read_as_they_were_dealt_and_none_where_a_file_is_missing(tmp_path):
    whole, paths = rollouts(5).trim(), [tmp_path / "first", tmp_path / "second"]
    for rank, path in enumerate(paths):
        share = whole.select(range(rank, 5, 2))
        save_rollouts(path, share, [[f"{row}{slot}" for slot in "abc"] for row in range(rank, 5, 2)])
    assert load_answers(paths) == [(prompt, f"{row}a") for row, prompt in enumerate(whole.responses.prompts.texts)]
    paths[1].unlink()
    assert load_answers(paths) == []


def test_what_a_share_lacks_the_whole_lacks():
    bare = replace(rollouts(4), rewards=None, reference_token_logps=None)
    whole = interleaved([bare.select([0, 2]), bare.select([1, 3])])
    assert whole.rewards is None
    assert whole.reference_token_logps is None
