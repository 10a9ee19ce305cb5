"""Laws of a whole run: determinism, splitting a batch, what is frozen, what is on policy, the order of an iteration."""

from itertools import pairwise

import pytest
import torch

from lit_align import JudgeError, LanguageModel, LoRA, Previous, RewardFunction, Sampler
from lit_align.data.rollout_store import load_rollouts
from lit_align.iteration.evaluator import HeldOutEvaluator
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Verdict
from lit_align.sampling.uniforms import token_uniforms
from tests.conftest import make_model, prompts_of, write_jsonl
from tests.rounding import TRAINED, assert_same_but_rounding
from tests.tiny_runs import OTHER_KERNELS, assert_same_metrics, assert_same_weights, build


class SometimesSilent(RewardFunction):
    """Compares nothing for the prompts whose number is in ``silent``."""

    def __init__(self, silent):
        super().__init__("tests.conftest.happiness")
        self.silent = silent

    def verdict(self, prompts, texts, report=None):
        verdict = super().verdict(prompts, texts, report)
        compared = verdict.compared.clone()
        for row, record in enumerate(prompts.records):
            if record["number"] in self.silent:
                compared[row] = torch.eye(len(texts[0]), dtype=torch.bool)
        return Verdict(verdict.wins, compared, verdict.rewards)


@pytest.fixture(scope="module", params=["lora", "full"])
def finished(request, tmp_path_factory):
    """A run of two iterations, and the folder of its model."""
    folder = tmp_path_factory.mktemp(f"run-{request.param}")
    model = str(make_model(folder / "model"))
    pools = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(8, offset=40)),
    }
    lora = LoRA(rank=4) if request.param == "lora" else None
    return build(model, pools, folder / "runs", lora=lora, export=True).fit()


def rollouts_of(run, iteration):
    return load_rollouts(run.folder / "rollouts" / f"iteration-{iteration:04d}-rank0.parquet")


def test_one_seed_is_one_run_bit_for_bit_and_another_seed_is_another(tiny_model, pools, tmp_path):
    first, again = (build(tiny_model, pools, tmp_path, seed=1).fit() for _ in range(2))
    other = build(tiny_model, pools, tmp_path, seed=2, max_epochs=1).fit()
    assert_same_weights(first.weights, again.weights)
    assert (first.folder / "metrics.csv").read_bytes() == (again.folder / "metrics.csv").read_bytes()
    for iteration in (0, 1):
        assert first.table(iteration).equals(again.table(iteration), check_metadata=True)
    assert not first.table(0).column("texts").equals(other.table(0).column("texts"))
    assert first.rows[1] != other.rows[1]


@pytest.mark.parametrize("silent", [(), (0, 3, 4, 5, 7, 9, 12, 13)], ids=["all compared", "groups of weight 0"])
def test_splitting_a_step_into_minibatches_changes_nothing(tiny_model, pools, tmp_path, silent):
    def finished(batch_size, accumulate):
        return build(
            tiny_model,
            pools | {"heldout": None},
            tmp_path,
            lr=0.02,
            wind={"judge": SometimesSilent(silent)},
            pool={"batch_size": batch_size},
            accumulate_grad_batches=accumulate,
        ).fit()

    whole = finished(8, 1)
    assert whole.trainer.global_step == 2
    assert max(float(value.abs().max()) for name, value in whole.weights.items() if "lora_B" in name) > 1e-3
    for split in (finished(2, 4), finished(4, 2)):
        assert_same_weights(whole.weights, split.weights, TRAINED)
        assert_same_metrics(split.rows, whole.rows)


def test_a_minibatch_without_any_comparison_is_a_step_that_moves_nothing(tiny_model, pools, tmp_path):
    judge = SometimesSilent([number for number in range(16) if number % 4])
    run = build(
        tiny_model, pools | {"heldout": None}, tmp_path, wind={"judge": judge}, pool={"batch_size": 1}, max_epochs=1
    )
    seen = [run.weights]
    run.module.on_train_batch_end = lambda *_: seen.append(run.weights)
    run.fit()
    moves = [any(not torch.equal(old[n], new[n]) for n in new) for old, new in pairwise(seen[1:])]
    compared = [bool(batch.compared.triu(1).any()) for batch in run.trainer.train_dataloader.dataset]
    assert moves == compared[1:]
    assert {True, False} <= set(moves)


def test_an_iteration_without_any_comparison_stops_the_run(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, wind={"judge": SometimesSilent(range(16))})
    with pytest.raises(JudgeError, match=r"iteration 1: judge tests\.conftest\.happiness made none of 48 comparisons"):
        run.fit()


def test_two_passes_visit_every_prompt_twice_and_step_twice_as_often(tiny_model, pools, tmp_path):
    def visits(passes):
        seen = []
        run = build(tiny_model, pools | {"heldout": None}, tmp_path, pool={"passes": passes}, max_epochs=1)
        step = run.module.training_step

        def recording(batch, batch_idx):
            seen.extend(batch.responses.prompts.record_id.tolist())
            return step(batch, batch_idx)

        run.module.training_step = recording
        run.fit()
        return sorted(seen), run.trainer.global_step

    (once, steps), (twice, more_steps) = visits(1), visits(2)
    assert len(set(once)) == len(once) == 8
    assert twice == sorted(once * 2)
    assert (steps, more_steps) == (2, 4)


def test_the_policy_moves_and_the_reference_does_not(finished):
    policy = finished.module.policy
    rollouts = rollouts_of(finished, 0)
    with torch.no_grad():
        reference = policy.logps(rollouts.responses, "reference")
        moved = policy.logps(rollouts.responses)
    assert_same_but_rounding(reference, rollouts.reference_token_logps)
    assert (moved - reference).abs().max() > 0.05
    trained = {p.data_ptr() for p in policy.parameters() if p.requires_grad}
    held = {p.data_ptr() for p in (policy.frozen or policy.model).parameters() if not p.requires_grad}
    assert held
    assert not trained & held


def test_stored_log_probs_are_those_of_the_iterate_that_drew_the_responses(finished):
    first, second = rollouts_of(finished, 0), rollouts_of(finished, 1)
    assert_same_but_rounding(first.anchor_token_logps, first.reference_token_logps)
    assert (second.anchor_token_logps - second.reference_token_logps).abs().max() > 0.01

    iterate = LanguageModel(finished.module.policy.name, lora=finished.module.policy.lora)
    iterate.load()
    saved = torch.load(finished.folder / "checkpoints" / "iteration-0001.ckpt", weights_only=True)["state_dict"]
    iterate.load_state_dict({n.removeprefix("policy."): v for n, v in saved.items() if n != "iteration"}, strict=False)
    with torch.no_grad():
        before_training = iterate.logps(second.responses)
        after_training = finished.module.policy.logps(second.responses)
    assert_same_but_rounding(second.anchor_token_logps, before_training)
    assert (second.anchor_token_logps - after_training).abs().max() > 0.01
    assert [first.responses.iteration, second.responses.iteration] == [0, 1]


def test_responses_are_drawn_from_the_very_parameters_the_loss_starts_from(finished):
    assert [row["iteration"] for row in finished.rows] == ["0", "1", "2"]
    assert all(float(row["train/sampling_gap"]) < OTHER_KERNELS for row in finished.rows[1:])


def test_the_first_minibatch_of_an_iteration_is_at_the_anchor(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path)
    ratios = []
    loss = run.module.loss

    def recording(rollouts):
        if rollouts.policy_token_logps.requires_grad:
            gap = rollouts.policy_logps.detach() - rollouts.anchor_logps
            ratios.append(float(gap.abs().max()))
        return loss(rollouts)

    run.module.loss = recording
    run.fit()
    assert len(ratios) == 4
    assert max(ratios[0], ratios[2]) < OTHER_KERNELS
    assert min(ratios[1], ratios[3]) > 10 * OTHER_KERNELS


@pytest.mark.parametrize(("source", "names"), [("reference", "policy and reference"), ("anchor", "policy and anchor")])
def test_a_policy_that_does_not_start_where_it_should_is_refused(
    tiny_model, pools, tmp_path, monkeypatch, source, names
):
    sampler = Sampler(group_size=4, max_new_tokens=8, temperature=0.9)  # no alarm on the gap to the sampling law
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, wind={"sampler": sampler})
    if source == "reference":
        original = LanguageModel.logps
        monkeypatch.setattr(LanguageModel, "logps", lambda self, r, s="policy": original(self, r, s) - int(s == source))
    else:
        monkeypatch.setattr(Previous, "logps", lambda self, p, r: p.logps(r) - int(run.module.iteration))
    with pytest.raises(RuntimeError, match=f"{names} should be the same as an iteration begins"):
        run.fit()


def test_an_iteration_is_begin_collect_optimise_evaluate_checkpoint(tiny_model, pools, tmp_path, monkeypatch):
    calls = []

    def record(owner, method, name):
        original = getattr(owner, method)

        def recorded(self, *args, **kwargs):
            if calls[-1:] != [name]:
                calls.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, recorded)

    record(Previous, "begin", "begin")
    record(AlignmentModule, "collect", "collect")
    record(AlignmentModule, "training_step", "optimise")
    record(HeldOutEvaluator, "evaluate", "evaluate")
    record(AlignmentModule, "on_save_checkpoint", "checkpoint")
    build(tiny_model, pools, tmp_path).fit()
    calls.remove("evaluate")  # iteration 0, of what the run starts from
    assert calls == ["begin", "collect", "optimise", "evaluate", "checkpoint"] * 2


def test_evaluation_and_training_draw_different_random_numbers(finished):
    training = rollouts_of(finished, 1).responses
    held_out = load_rollouts(finished.folder / "evaluation" / "heldout-0001-rank0.parquet").responses
    ids = training.prompts.record_id
    first, second = (token_uniforms(ids, 1, 8, seed=drawn.seed, iteration=1) for drawn in (training, held_out))
    assert (first == second).float().mean() < 0.01
    assert held_out.group_size == 1
