"""A judge reads the special tokens inside responses if it asks for them, in training and in evaluation alike."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lit_align import RewardFunction
from tests.tiny_runs import build

seen: dict[str, list[str]] = {}


def kept(prompts, responses, records):
    """A reward that notes what it reads."""
    seen.setdefault("kept", []).extend(responses)
    return [float(len(text)) for text in responses]


def dropped(prompts, responses, records):
    seen.setdefault("dropped", []).extend(responses)
    return [float(len(text)) for text in responses]


@pytest.fixture
def model(tiny_model, tmp_path) -> str:
    """The tiny model, with a token that ends answers by its generation config and is not special."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = Path(folder) / "tokenizer.json"
    spelled = json.loads(settings.read_text())
    for token in spelled["added_tokens"]:
        token["special"] = token["content"] != "<|stop|>"
    settings.write_text(json.dumps(spelled))
    return str(folder)


def test_a_judge_reads_what_it_asks_for_and_never_an_end(model, pools, tmp_path):
    seen.clear()
    here = f"{__name__}."
    module = {"judge": RewardFunction(f"{here}kept", special_tokens="keep")}
    module["eval_judges"] = {"blind": RewardFunction(f"{here}dropped")}
    run = build(model, pools, tmp_path, max_epochs=1, wind=module).fit()
    assert AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("<|stop|>") in run.module.policy.ends.ids
    assert any("<|pad|>" in text or "<|start|>" in text for text in seen["kept"])
    assert not any("<|" in text for text in seen["dropped"])
    assert not any(end in text for texts in seen.values() for text in texts for end in ("<|end|>", "<|stop|>"))
    assert not any("<|pad|>" in text for group in run.table(0)["texts"].to_pylist() for text in group)
