"""Out of memory in a run: sampling and scoring go on in halves and draw the same; training says what to change."""

import logging

import pytest
import torch

from lit_align import LanguageModel
from lit_align.data.rollout_store import load_rollouts
from lit_align.utils.out_of_memory import OutOfMemory
from tests.draws import recorded, same_draws
from tests.rounding import TRAINED, assert_same_but_rounding, steps_of
from tests.tiny_runs import build


def without_room(monkeypatch, method: str, room: int) -> list[int]:
    """A policy that has no memory for more than so many prompts at once; the sizes it was asked for."""
    asked: list[int] = []
    original = getattr(LanguageModel, method)

    def narrow(self, given, *arguments):
        if not torch.is_grad_enabled():
            asked.append(len(given))
            if len(given) > room:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, given, *arguments)

    monkeypatch.setattr(LanguageModel, method, narrow)
    return asked


@pytest.mark.parametrize(("method", "doing"), [("sample", "sampling"), ("logps", "scoring")])
def test_a_run_without_room_draws_the_same_responses_and_says_so_once(
    tiny_model, pools, tmp_path, monkeypatch, caplog, method, doing
):
    def rollouts(run):
        return [load_rollouts(path) for path in sorted((run.folder / "rollouts").iterdir())]

    with recorded() as margins:
        roomy = rollouts(build(tiny_model, pools, tmp_path / "roomy", lr=0.005).fit())
    asked = without_room(monkeypatch, method, 3)
    with caplog.at_level(logging.WARNING, "lit_align"):
        tight = rollouts(build(tiny_model, pools, tmp_path / "tight", lr=0.005).fit())
    said = [message for message in caplog.messages if "memory" in message]
    assert said == [f"out of memory {doing}: going on with 2 prompts at a time"]
    assert sorted({size for size in asked if size > 3}) == [4, 8]
    assert len([size for size in asked if size > 3]) == 2
    for first, second in zip(roomy, tight, strict=True):
        if not same_draws(second.responses, first.responses, margins, within=steps_of(torch.float32, 8, TRAINED)):
            break  # by a tie, and another run from here
        assert_same_but_rounding(second.anchor_token_logps, first.anchor_token_logps, TRAINED)


def test_a_prompt_that_does_not_fit_alone_is_one_line_with_advice(tiny_model, pools, tmp_path, monkeypatch):
    without_room(monkeypatch, "sample", 0)
    with pytest.raises(OutOfMemory, match=r"^out of memory sampling a single prompt: lower model\.sampler\.group_size"):
        build(tiny_model, pools, tmp_path).fit()


def test_out_of_memory_in_training_is_told_with_advice_and_nothing_is_stepped(tiny_model, pools, tmp_path, monkeypatch):
    def full(loss, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    run = build(tiny_model, pools | {"heldout": None}, tmp_path)
    monkeypatch.setattr(run.module, "backward", full)
    with pytest.raises(
        OutOfMemory, match=r"training: halve data\.batch_size and double trainer\.accumulate_grad_batch"
    ):
        run.fit()
    assert all(value.abs().max() == 0 for name, value in run.weights.items() if "lora_B" in name)
