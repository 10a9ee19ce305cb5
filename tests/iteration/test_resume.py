"""What a run leaves on disk is enough to go on from: rollouts, checkpoints, metrics, the exported model."""

import pytest
import torch

from lit_align import HeldOutEvaluator, LanguageModel, LoRA, RewardFunction
from lit_align.data.rollout_store import load_rollouts
from tests.rounding import assert_same_but_rounding
from tests.tiny_runs import assert_same_weights, build

VAL = {"val/win_rate", "val/win_rate_low", "val/win_rate_high", "val/reward", "val/kl"}


@pytest.fixture
def draws(monkeypatch):
    """Who was asked to draw responses, a call each."""
    calls = []
    original = LanguageModel.sample

    def counting(self, prompts, uniforms, decoding, source, at_once=0):
        calls.append(source)
        return original(self, prompts, uniforms, decoding, source, at_once)

    monkeypatch.setattr(LanguageModel, "sample", counting)
    return calls


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def test_collecting_twice_is_collecting_once(tiny_model, pools, tmp_path, draws):
    run = build(tiny_model, pools, tmp_path)
    collected = []

    def again(trainer, module):
        before = len(draws)
        first, second = (module.collect(run.pool.prompts(int(module.iteration))) for _ in range(2))
        collected.append(first is second and len(draws) == before)

    run.trainer.callbacks[-1].on_train_epoch_start = lambda trainer, module: again(trainer, module)
    run.fit()
    assert collected == [True, True]
    assert draws == ["policy"] * 5  # two iterations, three evaluations


def test_a_run_that_is_started_again_in_its_folder_reuses_what_it_drew(tiny_model, pools, tmp_path, draws):
    first = build(tiny_model, pools, tmp_path).fit()
    drawn = len(draws)
    again = build(tiny_model, pools, tmp_path, run=first.folder).fit()
    assert drawn == 5
    assert len(draws) == drawn
    assert again.folder == first.folder
    assert_same_weights(first.weights, again.weights)


def test_rollouts_of_other_prompts_are_refused(tiny_model, pools, tmp_path):
    first = build(tiny_model, pools, tmp_path, max_epochs=1).fit()
    with pytest.raises(ValueError, match="cannot go on: seed_everything or"):
        build(tiny_model, pools, tmp_path, run=first.folder, seed=1, max_epochs=1).fit()


@pytest.mark.parametrize("lora", [LoRA(rank=4), None], ids=["lora", "full"])
def test_a_continued_run_ends_where_the_uninterrupted_one_does(tiny_model, pools, tmp_path, lora):
    options = {"lora": lora, "wind": {"optimizer": adamw, "reset_optimizer": False, "warmup_steps": 3}}
    whole = build(tiny_model, pools, tmp_path / "whole", **options).fit()

    stopped = build(tiny_model, pools, tmp_path / "stopped", max_epochs=1, **options).fit()
    continued = build(tiny_model, pools, tmp_path, run=stopped.folder, **options)
    continued.fit(ckpt_path=stopped.folder / "checkpoints" / "iteration-0001.ckpt")
    assert_same_weights(whole.weights, continued.weights)
    assert (whole.folder / "metrics.csv").read_bytes() == (continued.folder / "metrics.csv").read_bytes()
    assert whole.trainer.global_step == continued.trainer.global_step == 4


@pytest.mark.parametrize("lora", [LoRA(rank=4), None], ids=["lora", "full"])
def test_checkpoints_hold_the_trainable_weights_and_the_counter_alone(tiny_model, pools, tmp_path, lora):
    run = build(tiny_model, pools, tmp_path, lora=lora).fit()
    names = {name for name, parameter in run.module.named_parameters() if parameter.requires_grad}
    assert names
    assert not any("frozen" in name for name in names)
    for iteration in (1, 2):
        path = run.folder / "checkpoints" / f"iteration-{iteration:04d}.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["state_dict"].keys() == names | {"iteration"}
        assert int(checkpoint["state_dict"]["iteration"]) == iteration
        assert [row["iteration"] for row in checkpoint["history"]] == list(range(iteration + 1))
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert_same_weights(last["state_dict"], run.weights)


def test_a_checkpoint_of_another_model_is_refused(tiny_model, pools, tmp_path):
    other = build(tiny_model, pools, tmp_path, lora=None, max_epochs=1).fit()
    run = build(tiny_model, pools, tmp_path)
    with pytest.raises(ValueError, match="the checkpoint is of another model"):
        run.fit(ckpt_path=other.folder / "checkpoints" / "last.ckpt")


def test_metrics_have_a_row_for_the_start_and_one_for_each_iteration(tiny_model, pools, tmp_path):
    judges = {"sad": RewardFunction("tests.tiny_runs.sadness")}
    rows = build(tiny_model, pools, tmp_path, wind={"eval_judges": judges}).fit().rows
    assert [row["iteration"] for row in rows] == ["0", "1", "2"]
    assert {"iteration", "train/loss", "train/reward"} | VAL <= rows[0].keys()
    assert not [name for name in rows[0] if name.endswith(("_step", "_epoch"))]  # one column for one quantity
    assert (float(rows[0]["val/win_rate"]), float(rows[0]["val/kl"])) == (0.5, 0.0)
    assert rows[0]["train/loss"] == ""
    assert all(float(row["val/kl"]) > 0.01 for row in rows[1:])
    assert all(float(r["val/win_rate_low"]) <= float(r["val/win_rate"]) <= float(r["val/win_rate_high"]) for r in rows)
    # A judge of the opposite taste sees the opposite win rate.
    assert any(row["val/win_rate"] != "0.5" for row in rows)
    assert all(float(row["val/win_rate"]) + float(row["val/win_rate_sad"]) == pytest.approx(1) for row in rows)


def test_train_reward_is_the_mean_reward_of_the_rollouts(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path).fit()
    for iteration in (0, 1):
        rewards = load_rollouts(run.folder / "rollouts" / f"iteration-{iteration:04d}-rank0.parquet").rewards
        assert float(run.rows[iteration + 1]["train/reward"]) == pytest.approx(float(rewards.mean()))


def test_a_run_without_held_out_prompts_evaluates_nothing(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path).fit()
    assert [row["iteration"] for row in run.rows] == ["1", "2"]
    assert not [name for name in run.rows[0] if name.startswith("val/")]
    assert not (run.folder / "evaluation").exists()


@pytest.mark.parametrize("lora", [LoRA(rank=4), None], ids=["lora", "full"])
def test_the_exported_model_is_the_policy(tiny_model, pools, tmp_path, lora):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = build(tiny_model, pools, tmp_path, lora=lora, export=True, max_epochs=1).fit()
    exported = AutoModelForCausalLM.from_pretrained(run.folder / "model").eval()
    assert AutoTokenizer.from_pretrained(run.folder / "model").chat_template
    responses = load_rollouts(run.folder / "rollouts" / "iteration-0000-rank0.parquet").responses
    with torch.no_grad():
        expected = run.module.policy.logps(responses)
        initial = run.module.policy.logps(responses, "reference")
        for row in range(3):
            prompt = responses.prompts.ids[row][responses.prompts.mask[row]]
            response = responses.ids[row, 0][responses.mask[row, 0]]
            logits = exported(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
            token_logps = logits.log_softmax(-1).gather(-1, response[:, None])[:, 0]
            assert_same_but_rounding(token_logps, expected[row, 0, : len(response)])
    assert (expected - initial).abs().max() > 0.05


def test_the_counter_moves_on_when_the_iteration_ends(tiny_model, pools, tmp_path):
    seen = []

    class Watched(HeldOutEvaluator):
        """Notes the counter, and of which iteration it is told."""

        def evaluate(self, *arguments, iteration, seed):
            seen.append((int(run.module.iteration), iteration))
            return super().evaluate(*arguments, iteration=iteration, seed=seed)

    run = build(tiny_model, pools, tmp_path, wind={"evaluator": Watched()})
    run.fit()
    assert seen == [(0, 0), (0, 1), (1, 2)]
    assert int(run.module.iteration) == 2
