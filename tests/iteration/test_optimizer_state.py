"""The optimiser within and across iterations: its state, its warm-up, its precision."""

import pytest
import torch

from lit_align import LanguageModel, LoRA
from lit_align.iteration.module import adamw
from lit_align.iteration.requirements import check_optimizer
from tests.rounding import TRAINED
from tests.tiny_runs import assert_same_weights, build


def heavy_ball(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def second_iteration(tiny_model, pools, tmp_path, reset, momentum=heavy_ball):
    options = {"wind": {"optimizer": momentum, "reset_optimizer": reset}}
    return build(tiny_model, pools | {"heldout": None}, tmp_path, **options).fit()


def test_each_iteration_starts_with_a_fresh_optimiser(tiny_model, pools, tmp_path):
    run = second_iteration(tiny_model, pools, tmp_path, reset=True)
    fresh = build(
        tiny_model, pools | {"heldout": None}, tmp_path, run=run.folder, max_epochs=1, wind={"optimizer": heavy_ball}
    )
    fresh.module.policy.load()
    saved = torch.load(run.folder / "checkpoints" / "iteration-0001.ckpt", weights_only=True)["state_dict"]
    fresh.module.load_state_dict(saved, strict=False)
    fresh.fit()
    assert int(fresh.module.iteration) == 2
    assert_same_weights(run.weights, fresh.weights, TRAINED)


def test_an_optimiser_that_is_kept_carries_its_momentum_over(tiny_model, pools, tmp_path):
    def gap(first, second):
        return max(float((first[n] - second[n]).abs().max()) for n in first if "lora" in n)

    reset, kept = (second_iteration(tiny_model, pools, tmp_path, reset) for reset in (True, False))
    after_one = [
        torch.load(run.folder / "checkpoints" / "iteration-0001.ckpt", weights_only=True)["state_dict"]
        for run in (reset, kept)
    ]
    assert gap(*after_one) == 0
    assert gap(reset.weights, kept.weights) > 1e-3


@pytest.mark.parametrize(
    ("reset", "factors"),
    [(True, [1 / 3, 2 / 3, 1, 1, 1 / 3, 2 / 3, 1, 1]), (False, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])],
    ids=["each iteration", "once"],
)
def test_the_learning_rate_warms_up_linearly(tiny_model, pools, tmp_path, reset, factors):
    options = {"warmup_steps": 2, "reset_optimizer": reset}
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, lr=0.01, wind=options, pool={"batch_size": 2})
    rates = []
    run.module.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    run.fit()
    assert rates == pytest.approx([0.01 * factor for factor in factors])


def test_only_what_trains_is_given_to_the_optimiser(tiny_model, pools, tmp_path):
    given = []

    def recording(parameters):
        given[:] = parameters  # the last call counts: before it the optimiser is asked how much memory it takes
        return torch.optim.SGD(given, lr=0.01)

    run = build(tiny_model, pools | {"heldout": None}, tmp_path, max_epochs=1, wind={"optimizer": recording}).fit()
    named = [name for name, p in run.module.named_parameters() if any(p is other for other in given)]
    assert len(named) == len(given) == 28
    assert all("lora_" in name for name in named)


def test_the_default_optimiser_decays_nothing():
    group = adamw([torch.nn.Parameter(torch.ones(1))]).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-6, 0.0)


def test_bf16_mixed_precision_trains_float32_weights(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path, precision="bf16-mixed").fit()
    assert {value.dtype for name, value in run.weights.items() if name != "iteration"} == {torch.float32}
    assert all(float(row["train/sampling_gap"]) < 0.5 for row in run.rows[1:])


@pytest.mark.parametrize("lora", [LoRA(rank=4), None], ids=["lora", "full"])
def test_bfloat16_weights_train(tiny_model, pools, tmp_path, lora):
    policy = LanguageModel(tiny_model, dtype="bfloat16", lora=lora)
    run = build(tiny_model, pools, tmp_path, wind={"policy": policy}).fit()
    assert [row["iteration"] for row in run.rows] == ["0", "1", "2"]
    assert float(run.rows[1]["val/kl"]) > 0.01


def test_an_optimiser_that_reads_the_loss_is_refused_where_devices_share_it():
    weights = [torch.nn.Parameter(torch.ones(1))]
    searching = torch.optim.LBFGS(weights)
    with pytest.raises(ValueError, match="LBFGS searches along the loss itself, and each of 2 devices has its own"):
        check_optimizer(searching, 2)
    check_optimizer(searching, 1)
    check_optimizer(heavy_ball(weights), 2)
