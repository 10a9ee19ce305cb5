"""An export has padding of its own, which ends no text; the policy's tokenizer stays as it is."""

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from lit_align import LanguageModel
from lit_align.models.exporting.padding import with_padding
from tests.conftest import make_tokenizer
from tests.models.loading.tiny_networks import config_of, saved

END = 2


def padded(pad, *, config_pad=None, spare=True):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = pad
    if not spare:
        tokenizer.get_vocab = lambda: {"<|end|>": END, "good": 9}
    configs = config_of("llama", pad_token_id=config_pad), GenerationConfig(eos_token_id=[END, 4])
    return with_padding(tokenizer, *configs), *configs


@pytest.mark.parametrize("pad", [None, "<|end|>"])
@pytest.mark.parametrize("config_pad", [None, END])
def test_padding_that_is_missing_or_ends_a_text_is_exchanged(pad, config_pad):
    tokenizer, config, generation = padded(pad, config_pad=config_pad)
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id == config.pad_token_id == generation.pad_token_id == 0


def test_padding_of_its_own_is_kept():
    tokenizer, config, _ = padded("<unk>", config_pad=7)
    assert (tokenizer.pad_token, config.pad_token_id) == ("<unk>", 7)


def test_where_the_vocabulary_has_no_token_to_spare_all_stays_as_it_is():
    tokenizer, config, generation = padded("<|end|>", config_pad=END, spare=False)
    assert (tokenizer.pad_token, config.pad_token_id, generation.pad_token_id) == ("<|end|>", END, None)


def test_the_export_pads_with_it_and_the_policy_does_not(tmp_path):
    folder = saved(tmp_path / "base", "llama", pad_token_id=None)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<|end|>"
    tokenizer.save_pretrained(folder)
    policy = LanguageModel(folder)
    identity = policy.identity
    policy.load()
    policy.export(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token == "<|pad|>"
    assert AutoConfig.from_pretrained(tmp_path / "out").pad_token_id == 0
    assert GenerationConfig.from_pretrained(tmp_path / "out").pad_token_id == 0
    assert LanguageModel(folder).identity == identity == policy.identity
    assert policy.tokenizer.pad_token == "<|end|>"
