"""A fault on one of two devices stops both before the step; memory that one lacks changes nothing for the other."""

from pathlib import Path

import pytest
import torch

from lit_align import LanguageModel
from lit_align.iteration.step_guard import NonFiniteError
from lit_align.run_folder import RunFolder
from tests.draws import recorded, same_draws
from tests.iteration.test_step_guard import POISONS
from tests.rounding import AGAIN, steps_of
from tests.strategies.finished import load_shares, model_and_pools
from tests.strategies.two_processes import on_two_processes
from tests.tiny_runs import assert_same_weights, build

OPTIONS = {"pool": {"batch_size": 2}, "lr": 0.005, "max_epochs": 1, "devices": 2, "strategy": "ddp"}


def stopped(model, pools, root, poison):
    """What each device says and holds when the second minibatch of the second one is poisoned."""
    run = build(model, pools, root, **OPTIONS)
    loss, seen = run.module.loss, []

    def loss_of(rollouts):
        values, weights = loss(rollouts)
        if rollouts.policy_token_logps.requires_grad:
            seen.append(run.weights)
            if len(seen) == 2 and run.trainer.global_rank == 1:
                values = POISONS[poison](values)
        return values, weights

    run.module.loss = loss_of
    with pytest.raises(NonFiniteError) as caught:
        run.fit()
    assert_same_weights(run.weights, seen[1])
    return str(caught.value), run.weights, run.folder


def drawn(model, pools, root, narrow):
    """The responses of a run whose second device has room for one prompt at a time, and this one's margins."""
    run = build(model, pools, root, **OPTIONS)
    sample = LanguageModel.sample

    def without_room(self, prompts, *arguments):
        if narrow and run.trainer.global_rank == 1 and len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sample(self, prompts, *arguments)

    LanguageModel.sample = without_room
    try:
        with recorded() as margins:
            run.fit()
    finally:
        LanguageModel.sample = sample
    return load_shares([RunFolder(run.folder).rollouts(0, rank, 2) for rank in range(2)]).responses, margins


def on_each_device(model, pools, root):
    faults = {poison: stopped(model, pools, root / poison, poison) for poison in POISONS}
    return faults, [drawn(model, pools, root / str(narrow), narrow) for narrow in (False, True)]


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    model, pools = model_and_pools(folder)
    return on_two_processes(on_each_device, model, pools | {"heldout": None}, folder)


@pytest.mark.parametrize("poison", POISONS)
def test_a_fault_on_one_device_stops_both_at_the_same_weights(devices, poison):
    (first, weights, folder), (second, others, _) = (faults[poison] for faults, _ in devices)
    assert_same_weights(weights, others)
    where = "in iteration 1, optimiser step 2 of the run"
    assert where in first
    assert where in second
    left = sorted(path.stem for path in Path(folder / "faults").iterdir())
    culprit = "step-000002-minibatch-0001-rank1"
    if poison == "gradient":  # which of the two it came from is not known
        assert left == [culprit.replace("rank1", "rank0"), culprit]
    else:
        assert first == f"the loss on another rank is not finite {where}"
        assert f"the loss is {poison}" in second
        assert left == [culprit]


def test_a_device_without_room_halves_alone_and_both_draw_the_same(devices):
    (_, ((roomy, margins), (tight, _))), (_, ((_, others), _)) = devices
    same_draws(tight, roomy, margins | others, within=steps_of(torch.float32, 4, AGAIN))
