"""The prompt pool of a game: every context, to train on and to be measured on."""

from types import SimpleNamespace

import pytest
import torch

from lit_align.games.contexts import Contexts
from lit_align.games.game import RandomGame
from lit_align.games.policies import TabularPolicy


def pool(**options):
    game = RandomGame(3, 4, copies=2)
    some = Contexts(game, **options)
    some.trainer = SimpleNamespace(accumulate_grad_batches=1, world_size=1, global_rank=0)
    return connected(some, "train", "heldout")


def connected(some, *names):
    some.read(*names)
    policy = TabularPolicy(some.game)
    some.connect(policy.encode, policy)
    return some


def contexts(prompts):
    return [record["context"] for record in prompts.records]


def test_an_iteration_answers_every_context_once():
    some = pool()
    for iteration in range(3):
        prompts = some.prompts(iteration)
        assert sorted(contexts(prompts)) == list(range(6))
        assert prompts.ids[:, -1].tolist() == contexts(prompts)


def test_every_iteration_draws_and_judges_afresh():
    first, second = pool().prompts(0), pool().prompts(1)
    assert not set(first.record_id.tolist()) & set(second.record_id.tolist())
    assert torch.equal(first.record_id, pool().prompts(0).record_id)


def test_fewer_prompts_an_iteration_go_round_all_contexts():
    some = pool(prompts_per_iteration=2)
    seen = [context for iteration in range(3) for context in contexts(some.prompts(iteration))]
    assert sorted(seen) == list(range(6))
    assert some.batch_size == 2


@pytest.mark.parametrize(("options", "size"), [({}, 6), ({"batch_size": 2}, 2), ({"prompts_per_iteration": 3}, 3)])
def test_a_batch_is_the_whole_iteration_unless_told_otherwise(options, size):
    some = pool(**options)
    some.check_divisible()
    assert some.batch_size == size


def test_a_batch_that_does_not_divide_the_iteration_is_refused():
    with pytest.raises(ValueError, match=r"data\.prompts_per_iteration \(6\) must be a multiple"):
        pool(batch_size=4).check_divisible()


def test_all_contexts_are_measured_in_their_order():
    some = pool(prompts_per_iteration=2)
    (batch,) = some.val_dataloader()
    assert contexts(batch) == list(range(6))
    (batch,) = connected(some, "test").test_dataloader()
    assert contexts(batch) == list(range(6))
