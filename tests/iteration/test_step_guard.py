"""A loss or gradient that is not finite stops the run before the step, and leaves the minibatch that caused it."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from lit_align.data.rollout_store import load_rollouts
from lit_align.iteration.step_guard import NonFiniteError
from tests.command_line import refusal, write_config
from tests.tiny_runs import assert_same_weights, build


def poisoned(run, minibatch: int, poison):
    """The run, with a poison for one minibatch of its first iteration; the weights as each minibatch met them."""
    loss, seen = run.module.loss, []

    def loss_of(rollouts):
        values, weights = loss(rollouts)
        if rollouts.policy_token_logps.requires_grad:
            seen.append(run.weights)
            if len(seen) == minibatch + 1:
                values = poison(values)
        return values, weights

    run.module.loss = loss_of
    return run, seen


class Explodes(torch.autograd.Function):
    """Finite forward, infinite backward."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.inf


POISONS = {"nan": lambda v: v * torch.nan, "inf": lambda v: v + torch.inf, "gradient": Explodes.apply}


def named_file(error) -> Path:
    return Path(re.search(r"are in (\S+\.parquet)", str(error.value))[1])


@pytest.mark.parametrize("clip", [None, 1.0], ids=["no clipping", "clipping"])
@pytest.mark.parametrize("poison", POISONS)
def test_the_run_stops_before_the_step_and_names_it(tiny_model, pools, tmp_path, poison, clip):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, pool={"batch_size": 2}, gradient_clip_val=clip)
    run, seen = poisoned(run, 2, POISONS[poison])
    what = {"nan": "the loss is nan", "inf": "the loss is inf", "gradient": "the norm of the gradient is (nan|inf)"}
    with pytest.raises(
        NonFiniteError, match=rf"{what[poison]} in iteration 1, optimiser step 3 of the run, minibatch 2"
    ):
        run.fit()
    assert len(seen) == 3
    assert_same_weights(run.weights, seen[2])
    assert (seen[2]["policy.model.base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"] != 0).any()


def test_the_minibatch_is_left_with_its_texts_wins_and_log_probs(tiny_model, pools, tmp_path):
    import pyarrow.parquet as pq

    run = build(tiny_model, pools | {"heldout": None}, tmp_path, pool={"batch_size": 2})
    scored = []
    watch = run.module.guard.watch
    run.module.guard.watch = lambda number, batch, loss: (scored.append(batch), watch(number, batch, loss))[1]
    run, _ = poisoned(run, 2, POISONS["nan"])
    with pytest.raises(NonFiniteError) as error:
        run.fit()
    left, batch = load_rollouts(named_file(error)), scored[-1]
    assert left.responses.prompts.records == batch.responses.prompts.records
    assert torch.equal(left.responses.trim().ids, batch.responses.trim().ids)
    assert torch.equal(left.wins, batch.wins)
    for policy in ("policy", "anchor", "reference"):
        expected = getattr(batch, f"{policy}_token_logps").detach()
        assert torch.equal(getattr(left, f"{policy}_token_logps"), expected)
    texts = pq.read_table(named_file(error)).column("texts").to_pylist()
    assert texts == run.module.policy.text(batch.responses)


@pytest.mark.parametrize(("poison", "left"), [("nan", [1]), ("gradient", [0, 1])])
def test_an_accumulated_step_leaves_its_culprit_or_all_that_may_be(tiny_model, pools, tmp_path, poison, left):
    run = build(
        tiny_model, pools | {"heldout": None}, tmp_path, pool={"batch_size": 2}, accumulate_grad_batches=2, lr=0.01
    )
    run, seen = poisoned(run, 1, POISONS[poison])
    with pytest.raises(NonFiniteError, match="optimiser step 1 of the run"):
        run.fit()
    names = sorted(path.stem for path in (run.folder / "faults").iterdir())
    assert names == [f"step-000001-minibatch-{number:04d}-rank0" for number in left]
    assert_same_weights(run.weights, seen[0])


@pytest.mark.parametrize("clip", [{}, {"gradient_clip_algorithm": "value"}], ids=["norm", "value"])
def test_gradients_are_clipped_as_lightning_would(tiny_model, pools, tmp_path, clip):
    import lightning as L

    def finished():
        return build(tiny_model, pools | {"heldout": None}, tmp_path, max_epochs=1, gradient_clip_val=0.01, **clip)

    ours, theirs = finished(), finished()
    theirs.module.configure_gradient_clipping = partial(L.LightningModule.configure_gradient_clipping, theirs.module)
    assert_same_weights(ours.fit().weights, theirs.fit().weights)
    free = build(tiny_model, pools | {"heldout": None}, tmp_path, max_epochs=1).fit().weights
    assert max(float((free[n] - w).abs().max()) for n, w in ours.weights.items() if n != "iteration") > 1e-4


def test_a_run_that_keeps_nothing_leaves_nothing(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, wind={"keep_rollouts": False})
    run, _ = poisoned(run, 0, POISONS["nan"])
    with pytest.raises(NonFiniteError, match="before this step; a lower"):
        run.fit()
    assert not (run.folder / "faults").exists()


def test_half_precision_may_have_infinite_gradients_which_its_scaler_skips(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path)
    run.module.trainer = run.trainer
    with pytest.raises(NonFiniteError, match="the norm of the gradient is inf in iteration 1, optimiser step 1"):
        run.module.guard.check(run.trainer, float("inf"), iteration=0)
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    run.trainer.strategy.precision_plugin = scaled
    run.module.guard.check(run.trainer, float("inf"), iteration=0)


def test_a_run_that_diverges_ends_in_one_line_on_the_command_line(tiny_model, pools, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path, tiny_model, pools)
    line = refusal(monkeypatch, capsys, "fit", "-c", config, "--model.optimizer.lr", "1e30")
    assert "the loss is nan in iteration 1, optimiser step 2 of the run, minibatch 1; the weights are as before" in line
    assert Path(re.search(r"are in (\S+\.parquet)", line)[1]).exists()
