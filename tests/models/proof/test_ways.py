"""Ways that are wrong are noticed and not used, what is slow is said, and what is never right is refused."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align import LanguageModel
from lit_align.models.proof import ways as proof
from lit_align.models.proof.ways import PLAIN, Ways, proved, ways_of
from lit_align.models.scoring import ragged_attention
from lit_align.models.scoring.ragged_attention import enable_ragged_attention, has_ragged_attention
from tests.models.architectures import SHAPE

ASKED = [[5, 9, 12, 7, 20], [15, 6]]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(proof, "FOUND", {})
    monkeypatch.setattr("lit_align.models.language_model.PROVED", {})


def config_of(kind="llama", **options):
    return AutoConfig.for_model(kind, **(SHAPE | options))


def off(monkeypatch, nats, *, line_alone=False):
    """Scoring that is wrong by so much."""
    right = proof.token_logps

    def wrong(model, responses, *, alone=False):
        found = right(model, responses, alone=alone)
        return found + nats * responses.mask * (not line_alone or (has_ragged_attention(model) and not alone))

    monkeypatch.setattr(proof, "token_logps", wrong)


def test_an_architecture_is_tried_once_a_process_whatever_its_models_are_called(monkeypatch):
    made = []
    tiny = proof.tiny_model
    monkeypatch.setattr(proof, "tiny_model", lambda *args: made.append(args) or tiny(*args))
    assert ways_of(config_of(), "sdpa", "one") == ways_of(config_of(), "sdpa", "another") == Ways()
    assert len(made) == 1
    ways_of(config_of(), "eager")
    ways_of(config_of(rms_norm_eps=0.1), "sdpa")
    assert len(made) == 3


def test_trying_leaves_the_random_numbers_of_the_process_as_they_were():
    state = torch.get_rng_state()
    ways_of(config_of(), "sdpa")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_line_that_ignores_windows_is_not_used(monkeypatch):
    over_blocks = ragged_attention.over_blocks
    monkeypatch.setattr(
        ragged_attention, "over_blocks", lambda *args, sliding_window=None, **options: over_blocks(*args, **options)
    )
    assert ways_of(config_of("mistral", sliding_window=4096), "sdpa").scoring == "padded"
    assert ways_of(config_of("llama"), "sdpa").scoring == "line"


def test_scoring_that_is_wrong_in_every_way_is_refused_with_the_reason(monkeypatch):
    off(monkeypatch, 0.01)
    with pytest.raises(ValueError, match=r"it \(llama\) is refused.*differ from those of one plain pass by up to 0.01"):
        ways_of(config_of(), "sdpa")


def test_what_is_slow_is_said_once(caplog):
    config = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=2, vocab_size=28, state_size=4)
    for _ in range(2):
        assert ways_of(config, "eager", "someone/mamba").sampling == "whole"
    assert len([message for message in caplog.messages if message.startswith("model.policy.name")]) == 1
    assert "someone/mamba (mamba) is sampled one prompt at a time and without a cache, which is slow" in caplog.text


def test_an_architecture_that_cannot_be_made_small_is_read_the_plain_way(monkeypatch, caplog):
    monkeypatch.setattr(proof, "tiny_model", lambda *args: None)
    assert ways_of(config_of(), "sdpa") == replace(
        PLAIN, why="no small model of its architecture can be made to try it"
    )
    assert "scored one sequence at a time and sampled one prompt at a time" in caplog.text


@pytest.fixture
def model(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    enable_ragged_attention(model)
    return model


def test_a_model_whose_own_weights_disagree_falls_back_to_plain_passes_and_says_so(model, monkeypatch, caplog):
    off(monkeypatch, 0.002, line_alone=True)
    found = proved(model, Ways(), ASKED, exact=True, name="someone's")
    assert (found.scoring, found.sampling) == ("alone", "whole")
    assert not has_ragged_attention(model)
    assert "someone's is scored one sequence at a time" in caplog.text
    assert "by up to 0.002 nats" in caplog.text


def test_a_model_that_plain_passes_disagree_with_is_refused(model, monkeypatch):
    off(monkeypatch, 0.002)
    with pytest.raises(ValueError, match=r"policy\.name: someone's is refused.*by up to 0\.002 nats a token"):
        proved(model, Ways(), ASKED, exact=True, name="someone's")


@pytest.mark.parametrize(("nats", "right"), [(0.09, True), (0.11, False)])
def test_in_half_precision_the_mean_is_bounded(model, monkeypatch, nats, right):
    off(monkeypatch, nats)
    if right:
        assert proved(model, Ways(), ASKED, exact=False, name="it") == Ways()
    else:
        with pytest.raises(ValueError, match=r"on average 0\.11 nats a token"):
            proved(model, Ways(), ASKED, exact=False, name="it")


def test_a_model_is_asked_once_for_the_same_files(tiny_model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lit_align.models.language_model.proved", lambda model, ways, *_, **how: asked.append(how["exact"]) or ways
    )
    for dtype in ("float32", "float32", "bfloat16"):
        LanguageModel(tiny_model, dtype=dtype).load()
    assert asked == [True, False]


def test_proving_leaves_the_mode_of_the_model_and_the_random_numbers_as_they_were(tiny_model):
    policy = LanguageModel(tiny_model)
    state = torch.get_rng_state()
    policy.load()
    assert torch.equal(torch.get_rng_state(), state)
    assert not policy.model.training
