"""A policy that is not the one that responses were drawn from is not trained on in silence."""

import logging
from dataclasses import replace

import pytest
import torch

from lit_align import LanguageModel, Sampler
from lit_align.iteration.collector import check_sampling
from tests.tiny_runs import build


def test_in_full_precision_a_gap_stops_the_run_with_one_line():
    check_sampling(torch.tensor([0.0, 9e-3]), exact=True)
    with pytest.raises(RuntimeError, match=r"^train/sampling_gap is 0\.02 nats.*not drawn from the policy") as raised:
        check_sampling(torch.tensor([0.0, 0.02]), exact=True)
    assert "\n" not in str(raised.value)
    with pytest.raises(RuntimeError, match="train/sampling_gap is nan"):
        check_sampling(torch.tensor([0.0, torch.nan]), exact=True)


def test_in_half_precision_the_mean_warns(caplog):
    check_sampling(torch.tensor([0.0, 0.19]), exact=False)
    assert not caplog.messages
    check_sampling(torch.tensor([0.0, 0.3]), exact=False)
    assert len(caplog.messages) == 1
    assert "0.15 nats a token from the policy on average (train/sampling_gap 0.3 at most)" in caplog.messages[0]


@pytest.fixture
def askew(monkeypatch):
    """Policies that say of what they draw that it was a little more likely."""
    sample = LanguageModel.sample

    def more_likely(self, *args, **kwargs):
        drawn = sample(self, *args, **kwargs)
        return replace(drawn, sample_logps=drawn.sample_logps + 0.2 * drawn.mask)

    monkeypatch.setattr(LanguageModel, "sample", more_likely)


@pytest.mark.usefixtures("askew")
def test_a_run_stops_before_its_first_step(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools | {"heldout": None}, tmp_path)
    with pytest.raises(RuntimeError, match=r"train/sampling_gap is 0\.2 nats"):
        run.fit()
    assert run.trainer.global_step == 0


@pytest.mark.usefixtures("askew")
def test_a_run_in_half_precision_warns_and_goes_on(tiny_model, pools, tmp_path, caplog):
    policy = LanguageModel(tiny_model, dtype="bfloat16")
    with caplog.at_level(logging.WARNING):
        run = build(tiny_model, pools | {"heldout": None}, tmp_path, wind={"policy": policy}, max_epochs=1).fit()
    assert run.trainer.global_step == 2
    assert any("nats a token from the policy on average" in message for message in caplog.messages)


@pytest.mark.usefixtures("askew")
def test_a_law_that_is_not_the_policys_is_no_alarm(tiny_model, pools, tmp_path):
    sampler = Sampler(group_size=4, max_new_tokens=8, temperature=0.7)
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, wind={"sampler": sampler}, max_epochs=1).fit()
    assert run.trainer.global_step == 2
