"""What every algorithm has in common: its loss is the one written down, reads what it says it reads, and trains."""

import inspect
import tempfile
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import lightning as L
import pytest
import torch

import lit_align
from lit_align import AlignmentModule, Sampler
from lit_align.games.contexts import Contexts
from lit_align.games.game import Game, RandomGame
from lit_align.games.policies import TabularPolicy
from lit_align.games.tree import TreePolicy
from lit_align.types import Prompts, Responses, Rollouts, masked_sum
from tests.algorithms.cases import ALGORITHMS, CASES
from tests.algorithms.formulas import Row
from tests.games.instances import random_laws, random_rewards
from tests.laws.instances import distance, on, sgd

ROWS, LENGTH = 3, 4
POLICIES = ("policy", "anchor", "reference", "current")
# Hyper-parameters of a run, where those of the formulas would do next to nothing in a few steps, or too much.
OF_A_RUN = {"ChiPO": {"r_max": 1.0}, "RPO": {"eta": 0.05}, "XPO": {"alpha": 0.01}}


def ids(case):
    return " ".join([case.name, *[value for value in case.options.values() if isinstance(value, str)]])


@pytest.fixture(params=CASES, ids=ids)
def case(request):
    return request.param


def module_of(case, game=None, **options):
    """The case's algorithm on a game."""
    defaults = {"sampler": Sampler(sources=case.slots if case.roles else (), group_size=4, max_new_tokens=LENGTH)}
    if case.anchor is not None:
        defaults["anchor"] = case.anchor()
    return on(game or RandomGame(1, 3), case.algorithm, **(defaults | case.options | options))


def rollouts_of(case, *, spread=0.2, wins=None):
    """Random responses of unequal length, judged; log-probs of the policies differ by ``spread`` a token."""
    group = len(case.slots)
    lengths = torch.tensor([[1, 3, 2], [2, 1, 3], [3, 2, 1]])[:, :group]
    mask = torch.arange(LENGTH) < lengths[..., None]
    size = (ROWS, group, LENGTH)
    base = -2 * torch.rand(size, dtype=torch.float64)
    logps = {name: base + spread * torch.randn(size, dtype=torch.float64) for name in POLICIES}
    if wins is None:
        rewards = torch.randn(ROWS, group, dtype=torch.float64)
        wins = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    else:
        rewards = wins.sum(-1)
    prompts = Prompts(
        torch.zeros(ROWS, 1, dtype=torch.long),
        torch.ones(ROWS, 1, dtype=torch.bool),
        torch.arange(ROWS),
        [{"context": 0}] * ROWS,
    )
    responses = Responses(
        prompts, torch.zeros(size, dtype=torch.long), mask, ~mask.any(-1), torch.zeros_like(base), case.slots
    )
    garbage = {f"{name}_token_logps": torch.where(mask, value, 1e3) for name, value in logps.items()}
    return Rollouts(responses, wins, torch.ones_like(wins, dtype=torch.bool), rewards, **garbage)


def written_out(rollouts):
    """The rollouts as plain numbers."""
    columns = [masked_sum(getattr(rollouts, f"{name}_token_logps"), rollouts.responses.mask) for name in POLICIES]
    columns += [rollouts.responses.lengths, rollouts.wins, rollouts.rewards]
    return [Row(*row) for row in zip(*[column.tolist() for column in columns], strict=True)]


def ready(case, rollouts, **options):
    """The module in its second iteration, and the rollouts as it prepares them."""
    module = module_of(case, **options)
    module.iteration.fill_(1)
    return module, module.prepare(rollouts)


def row_losses(module, rollouts):
    """Weighted loss of each prompt."""
    values, weights = module.loss(rollouts)
    return (values * weights).reshape(len(rollouts), -1).sum(1)


def gradient(module, rollouts):
    """Of the weighted loss in the policy's token log-probs."""
    policy = rollouts.policy_token_logps.clone().requires_grad_()
    losses = row_losses(module, replace(rollouts, policy_token_logps=policy))
    return losses, torch.autograd.grad(losses.sum(), policy)[0]


def test_every_algorithm_is_here():
    assert set(ALGORITHMS) == {case.name for case in CASES}
    stems = [path.stem for path in (Path(lit_align.__file__).parent / "algorithms").glob("*.py")]
    modules = [import_module(f"lit_align.algorithms.{stem}") for stem in stems if stem != "__init__"]
    own = [thing for module in modules for thing in vars(module).values() if inspect.isclass(thing)]
    names = {kind.__name__ for kind in own if issubclass(kind, AlignmentModule) and "algorithms" in kind.__module__}
    assert names == {*ALGORITHMS, "PairwiseModule"}
    assert all(getattr(lit_align, name).__name__ == name for name in names)


def test_the_loss_is_the_one_that_is_written_down(case):
    module, rollouts = ready(case, rollouts_of(case))
    rows = written_out(rollouts)
    expected = torch.tensor([case.formula(row, rows) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(row_losses(module, rollouts), expected)


def test_where_all_policies_are_one_the_loss_has_its_closed_form(case):
    drawn = rollouts_of(case)
    same = {f"{name}_token_logps": drawn.policy_token_logps for name in POLICIES}
    module, rollouts = ready(case, replace(drawn, **same))
    rows = written_out(rollouts)
    expected = torch.tensor([case.start(row, rows) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(row_losses(module, rollouts), expected)


def test_a_better_response_of_the_policy_is_made_likelier_and_a_worse_one_is_not(case):
    best, worst = torch.full((2, len(case.slots), len(case.slots)), 0.5, dtype=torch.float64)
    best[0, 1:], best[1:, 0] = 1.0, 0.0
    worst[0, 1:], worst[1:, 0] = 0.0, 1.0
    drawn = rollouts_of(case, wins=torch.stack([best, worst, best]), spread=0.0)
    module, rollouts = ready(case, drawn)
    _, slope = gradient(module, rollouts)
    first = slope[:, 0, 0]
    assert first[0] < 0
    assert first[2] < 0
    assert first[1] >= 0 if case.name == "MinorDPO" else first[1] > 0  # at the reference it leaves the loser alone


def test_padding_changes_nothing(case):
    module, rollouts = ready(case, rollouts_of(case))
    losses, slope = gradient(module, rollouts)
    assert (slope[~rollouts.responses.mask] == 0).all()

    def wider(tokens, value):
        return torch.nn.functional.pad(tokens, (0, 3), value=value)

    responses = replace(
        rollouts.responses,
        ids=wider(rollouts.responses.ids, 1),
        mask=wider(rollouts.responses.mask, False),
        sample_logps=wider(rollouts.responses.sample_logps, 7.0),
    )
    padded = {f"{name}_token_logps": wider(getattr(rollouts, f"{name}_token_logps"), -1e3) for name in POLICIES}
    same, same_slope = gradient(module, replace(rollouts, responses=responses, **padded))
    torch.testing.assert_close(same, losses, rtol=0, atol=0)
    torch.testing.assert_close(same_slope, wider(slope, 0.0), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(case, dtype):
    module, rollouts = ready(case, rollouts_of(case))
    narrow = {f"{name}_token_logps": getattr(rollouts, f"{name}_token_logps").to(dtype) for name in POLICIES}
    rollouts = replace(rollouts, wins=rollouts.wins.to(dtype), **narrow)
    for pattern in ((1, 1, 1), (-1, -1, -1), (1, -1, 0), (-1, 1, 0), (0, 1, -1), (0, -1, 1)):
        shift = 1e4 * torch.tensor(pattern[: len(case.slots)], dtype=dtype)
        moved = rollouts.policy_token_logps.clone()
        moved[..., 0] += shift
        losses, slope = gradient(module, replace(rollouts, policy_token_logps=moved))
        assert losses.isfinite().all()
        assert slope.isfinite().all()


def test_only_what_it_says_it_needs_is_read(case):
    module, rollouts = ready(case, rollouts_of(case))
    unneeded = [name for name in POLICIES[1:] if name not in module.needs]
    bare = replace(rollouts, **dict.fromkeys([f"{name}_token_logps" for name in unneeded]))
    if "rewards" not in module.needs:
        bare = replace(bare, rewards=None)
    torch.testing.assert_close(row_losses(module, bare), row_losses(module, rollouts))


def test_weights_do_not_depend_on_the_policy(case):
    module, rollouts = ready(case, rollouts_of(case))
    _, weights = module.loss(rollouts)
    _, same = module.loss(replace(rollouts, policy_token_logps=rollouts.policy_token_logps - 5))
    torch.testing.assert_close(same, weights, rtol=0, atol=0)
    assert not weights.requires_grad


# The others read rewards, which are never missing.
@pytest.mark.parametrize("case", [case for case in CASES if case.compares], ids=ids)
def test_a_prompt_without_comparisons_does_not_count(case):
    drawn = rollouts_of(case)
    compared = drawn.compared.clone()
    compared[1] = torch.eye(len(case.slots), dtype=torch.bool)
    module, rollouts = ready(case, replace(drawn, compared=compared))
    weights = module.loss_weights(rollouts)
    assert weights[1] == 0
    assert (weights[[0, 2]] > 0).all()


@pytest.mark.parametrize(
    ("case", "argument", "value"),
    [
        pytest.param(case, argument, value, id=f"{case.name} {argument} {value}")
        for case in CASES
        for argument, values in case.refused.items()
        for value in values
    ],
)
def test_values_without_a_meaning_are_refused_by_name(case, argument, value):
    with pytest.raises(ValueError, match=rf"model\.{argument} "):
        module_of(case, **{argument: value})


def trained(case, game, policy=TabularPolicy, *, batch_size, accumulate=1, optimizer):
    """The module after two iterations, and which policies' log-probs carried gradients in its steps."""
    options = {"pairing": "random"} if "pairing" in case.options else {}
    options |= OF_A_RUN.get(case.name, {})
    if case.roles and len(case.slots) == 2:
        options["sampler"] = Sampler(sources=2 * case.slots, max_new_tokens=LENGTH)
    module = module_of(case, game, policy=policy, optimizer=optimizer, keep_rollouts=False, **options)
    carried, loss = set(), module.loss

    def watched(rollouts):
        if torch.is_grad_enabled():
            seen = [(name, getattr(rollouts, f"{name}_token_logps")) for name in POLICIES]
            carried.update(name for name, tokens in seen if tokens is not None and tokens.requires_grad)
        return loss(rollouts)

    module.loss = watched
    with tempfile.TemporaryDirectory() as folder:
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(
            default_root_dir=folder,
            max_epochs=2,
            accumulate_grad_batches=accumulate,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(module, Contexts(game, batch_size=batch_size))
    return module, carried


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on loaders
def test_accumulated_minibatches_are_one_large_batch_and_what_was_collected_carries_no_gradient(case):
    game = RandomGame(8, 4, reference="random", seed=1)
    whole, carried = trained(case, game, batch_size=8, optimizer=sgd(1.0))
    split, _ = trained(case, game, batch_size=2, accumulate=4, optimizer=sgd(1.0))
    law = whole.policy.distribution().detach()
    torch.testing.assert_close(split.policy.distribution().detach(), law, atol=1e-12, rtol=0)
    assert distance(law, game.reference) > 1e-3
    assert carried == {"policy"}
    torch.testing.assert_close(whole.policy.distribution("reference"), game.reference, atol=1e-12, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_training_on_sequences_raises_the_win_rate(case):
    rewards = random_rewards(48, 40)
    wins = torch.sigmoid(3 * (rewards[:, :, None] - rewards[:, None, :]))
    game = Game(random_laws(48, 40, spread=0.5), wins, rewards=rewards)
    # Adam, since the slopes of the losses are of every size.
    module, _ = trained(case, game, TreePolicy, batch_size=48, optimizer=partial(torch.optim.Adam, lr=0.2))
    law = module.policy.distribution().detach()
    assert torch.einsum("xy,xyz,xz->x", law, wins, game.reference).mean() > 0.505
