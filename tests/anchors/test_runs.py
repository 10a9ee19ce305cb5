"""Anchors in runs of the tiny model: going on from a checkpoint, what is saved, who draws and who answers."""

import copy

import pytest
import torch

from lit_align import Extrapolated, LanguageModel, LoRA, MovingAverage, Previous, Sampler
from lit_align.iteration.evaluator import HeldOutEvaluator
from tests.conftest import prompts_of
from tests.rounding import assert_same_but_rounding
from tests.tiny_runs import OTHER_KERNELS, assert_same_weights, build

ANCHORS = {
    "previous of every second": (lambda: Previous(2), LoRA(rank=4), 1),
    "moving average": (lambda: MovingAverage(0.5), LoRA(rank=4), 2),
    "extrapolated": (lambda: Extrapolated(0.5), None, 2),
    "extrapolated, adapters": (lambda: Extrapolated(0.5), LoRA(rank=4), 2),
}
OFTEN = {"moving average", "extrapolated, adapters"}  # the others are slow


@pytest.mark.parametrize(
    ("make", "lora", "stop"),
    [pytest.param(*case, id=name, marks=() if name in OFTEN else pytest.mark.slow) for name, case in ANCHORS.items()],
)
def test_a_continued_run_ends_where_the_uninterrupted_one_does(tiny_model, pools, tmp_path, make, lora, stop):
    def prepared(folder, **options):
        sources = ("policy", "anchor", "policy", "anchor")
        wind = {"anchor": make(), "sampler": Sampler(sources=sources, max_new_tokens=6)}
        return build(tiny_model, pools | {"heldout": None}, tmp_path / folder, lora=lora, wind=wind, **options)

    whole = prepared("whole", max_epochs=3).fit()
    stopped = prepared("stopped", max_epochs=stop).fit()
    last = stopped.folder / "checkpoints" / "last.ckpt"
    ignorant = prepared("ignorant", max_epochs=3)
    ignorant.module.anchor.load_state_dict = lambda state: None
    ignorant.fit(ckpt_path=last)
    differences = [float((whole.weights[name] - value).abs().max()) for name, value in ignorant.weights.items()]
    assert max(differences) > 1e-4  # the anchor's state matters

    continued = prepared("stopped", max_epochs=3, run=stopped.folder).fit(ckpt_path=last)
    assert_same_weights(whole.weights, continued.weights)
    for iteration in range(3):
        assert whole.table(iteration).equals(continued.table(iteration), check_metadata=True)
    assert (whole.folder / "metrics.csv").read_bytes() == (continued.folder / "metrics.csv").read_bytes()


def test_A11_what_is_evaluated_saved_and_exported_is_the_iterate_before_extrapolation(
    tiny_model, pools, tmp_path, monkeypatch
):
    from transformers import AutoModelForCausalLM

    alpha = 0.5
    run = build(tiny_model, pools, tmp_path, lora=None, wind={"anchor": Extrapolated(alpha)}, export=True, max_epochs=3)
    points, iterates, evaluated = [], [], []

    def weights():
        return {n: p.detach().clone() for n, p in run.module.policy.named_parameters() if p.requires_grad}

    step, evaluate = run.module.training_step, HeldOutEvaluator.evaluate

    def recording(batch, batch_idx):
        if batch_idx == 0:
            points.append(weights())
        return step(batch, batch_idx)

    def measured(self, *args, **kwargs):
        evaluated.append(weights())
        return evaluate(self, *args, **kwargs)

    run.module.training_step = recording
    monkeypatch.setattr(HeldOutEvaluator, "evaluate", measured)
    run.module.on_train_batch_end = lambda outputs, batch, index: iterates.append(weights()) if index == 1 else None
    run.fit()

    assert_same_weights(points[0], evaluated[0])
    initial, first, second, third = evaluated[0], *iterates
    for iterate, seen in zip(iterates, evaluated[1:], strict=True):
        assert_same_weights(iterate, seen)
    for point, new, old in ((points[1], first, initial), (points[2], second, first)):
        assert_same_weights(point, {name: new[name] + alpha * (new[name] - old[name]) for name in new}, steps=8)
        assert max((point[name] - new[name]).abs().max() for name in new) > 1e-3
    for iteration, iterate in ((2, second), (3, third)):
        path = run.folder / "checkpoints" / f"iteration-{iteration:04d}.ckpt"
        saved = torch.load(path, weights_only=True)["state_dict"]
        assert_same_weights(
            {f"policy.{n}": p for n, p in iterate.items()} | {"iteration": torch.tensor(iteration)}, saved
        )
    exported = dict(AutoModelForCausalLM.from_pretrained(run.folder / "model").named_parameters())
    assert_same_weights(third, {f"model.{name}": exported[name] for name in exported})


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("make", [lambda: Previous(2), lambda: MovingAverage(0.25)], ids=["previous", "average"])
def test_a_language_model_answers_as_its_anchor_and_is_itself_again(tiny_model, lora, make):
    model, anchor = LanguageModel(tiny_model, lora=lora), make()
    model.load()
    model.eval()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, parameter in trained:
            parameter += 0.1 * torch.randn_like(parameter)
    anchor.begin(model, 0)
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for _, parameter in trained:
            parameter += 0.1 * torch.randn_like(parameter)
    end = copy.deepcopy(model.state_dict())
    anchor.begin(model, 1)

    drawn = Sampler(group_size=2, max_new_tokens=5).respond(model, model.encode(prompts_of(3)), seed=0, iteration=0)
    with torch.no_grad():
        found, own = anchor.logps(model, drawn), model.logps(drawn)
    assert_same_weights(end, model.state_dict())
    assert [(n, p) for n, p in model.named_parameters() if p.requires_grad] == trained

    rate = 0.25 if isinstance(anchor, MovingAverage) else 0.0
    expected = LanguageModel(tiny_model, lora=lora)
    expected.load()
    expected.eval()
    names = {name for name, _ in trained}
    expected.load_state_dict({name: start[name].lerp(end[name], rate) for name in names}, strict=False)
    with torch.no_grad():
        assert_same_but_rounding(found, expected.logps(drawn))
    assert (found - own).abs().max() > 1e-2


def test_predictions_are_the_policys_own_whoever_draws_in_training(tiny_model, pools, tmp_path):
    sources = ("policy", "anchor", "reference")
    wind = {"anchor": MovingAverage(0.5), "sampler": Sampler(sources=sources, max_new_tokens=6)}
    run = build(tiny_model, pools, tmp_path, wind=wind, max_epochs=1).fit()
    (rows,) = run.trainer.predict(run.module, run.pool)
    plain = build(tiny_model, pools, tmp_path, wind={"sampler": Sampler(group_size=3, max_new_tokens=6)})
    plain.module.policy = run.module.policy
    plain.module.iteration += 1
    (expected,) = plain.trainer.predict(plain.module, plain.pool)
    assert [row["responses"] for row in rows] == [row["responses"] for row in expected]


def test_draws_are_compared_with_the_policy_that_drew_them(tiny_model, pools, tmp_path):
    sources = ("policy", "anchor", "reference", "mixture")
    wind = {"anchor": MovingAverage(0.5), "sampler": Sampler(sources=sources, max_new_tokens=6)}
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, wind=wind).fit()
    assert all(float(row["train/sampling_gap"] or 0) < OTHER_KERNELS for row in run.rows)
