"""A batch changes none of its rows, even if frequencies follow the longest sequence of a pass."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align import LanguageModel, Sampler
from lit_align.models.changing_frequencies import begin_afresh, changes_at
from tests.conftest import WORDS, make_tokenizer
from tests.models.architectures import SHAPE

HALF = 16
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": HALF,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": HALF}
KINDS = {
    "longrope": ("phi3", {"original_max_position_embeddings": HALF, "rope_parameters": LONG}),
    "dynamic": ("llama", {"max_position_embeddings": HALF, "rope_parameters": DYNAMIC}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "plain": ("llama", {}),
}


def config_of(name):
    kind, options = KINDS[name]
    return AutoConfig.for_model(kind, **(SHAPE | options))


@pytest.fixture(scope="module", params=["longrope", "dynamic"])
def policy(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(request.param)).save_pretrained(folder)
    make_tokenizer(chat=False).save_pretrained(folder)
    policy = LanguageModel(str(folder))
    policy.load()
    return policy.eval()


def test_the_config_says_from_which_length_on():
    assert {name: changes_at(config_of(name)) for name in KINDS} == {
        "longrope": HALF,
        "dynamic": HALF,
        "yarn": None,
        "plain": None,
    }
    of_layers = config_of("plain")
    of_layers.rope_parameters = {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default"}}
    assert changes_at(of_layers) == of_layers.max_position_embeddings


RECORDS = [{"prompt": " ".join(WORDS[:count])} for count in (2, 17, 20, 3)]


@torch.no_grad()
def test_a_longer_prompt_beside_it_changes_no_log_prob_of_a_response(policy):
    prompts = policy.encode(RECORDS)
    responses = policy.encode_responses(prompts, [["good great nice"], ["sad"], ["a cat is a dog"], ["sun"]], 8)
    whole = policy.logps(responses)
    for order in ([3, 2, 1, 0], [0, 1, 2, 3]):
        for row in order:
            own = policy.logps(responses.select([row]).trim())
            torch.testing.assert_close(own[0], whole[row, :, : own.shape[-1]], rtol=0, atol=1e-5)


def test_a_longer_prompt_beside_it_changes_no_response(policy):
    sampler, prompts = Sampler(group_size=3, max_new_tokens=6), policy.encode(RECORDS)
    whole = sampler.respond(policy, prompts, seed=0, iteration=0)
    for row in (0, 1, 3):
        own = sampler.respond(policy, prompts.select([row]), seed=0, iteration=0)
        assert policy.text(own)[0] == policy.text(whole)[row]


@torch.no_grad()
@pytest.mark.parametrize("name", ["longrope", "dynamic"])
def test_a_pass_that_begins_afresh_is_that_of_a_new_model(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name)).eval()
    ids = torch.arange(20)[None] + 3
    new = model(ids).logits
    model((torch.arange(60)[None] % 25) + 3)
    begin_afresh(model)
    assert torch.equal(model(ids).logits, new)
