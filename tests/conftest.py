"""A tiny language model with a real tokenizer and chat template, data to go with it, and how tests share the cores."""

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

os.environ["HF_HUB_OFFLINE"] = "1"
# One thread each, for fixtures of modules and processes that tests start as well: how many share a sum changes it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

WORDS = ["good", "bad", "great", "awful", "nice", "poor", "happy", "sad", "the", "a", "day", "cat", "dog", "sun"]
WORDS += ["rain", "is", "was", "very", "not", "and"]
CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }} {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant {% endif %}"
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """None of them for files and single tests, which begin at once and can be stopped in; else as many as cores."""
    named = [Path(argument.split("::")[0]) for argument in config.args]
    return 0 if any(path.is_file() for path in named) else None


class FilesTogether(LoadFileScheduling):
    """One worker runs all of a file, whose fixtures may be whole runs; and one all that starts processes, in turn."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "processes" if starts_processes(Path(file)) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    """How tests are dealt out to workers."""
    return FilesTogether(config, log)


# Tests here are whole runs, command lines or many draws: the first case of each is in every run of the tests, and the
# other cases, which differ in their data, are slow.
ONE_OF_EACH = {"anchors", "callbacks", "iteration", "laws", "plan", "runs", "utils"}
ONE_OF_EACH |= {"test_bad_input", "test_class_changes", "test_configs", "test_overlays", "test_readme", "test_replay"}


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what takes one worker longest; of whole runs one case."""
    items.sort(key=lambda item: not starts_processes(item.path))
    begun: set[str] = set()
    for item in items:
        if item.get_closest_marker("slow") or not ONE_OF_EACH & {item.path.parent.name, item.path.stem}:
            continue
        name = item.nodeid.partition("[")[0]
        if name in begun:
            item.add_marker("slow")
        begun.add(name)


def pytest_collection_finish() -> None:
    """Leave what has been imported out of every later search for garbage: it stays, and there is much of it."""
    gc.collect()
    gc.freeze()


def starts_processes(path: Path) -> bool:
    return path.parent.name in ("kills", "strategies")


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED", None)


def make_tokenizer(chat: bool = True):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|pad|>", "<|start|>", "<|end|>", "<unk>", "<|stop|>"]
    vocabulary = {word: i for i, word in enumerate([*specials, "user", "assistant", "system", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        bos_token="<|start|>",
        unk_token="<unk>",
        model_max_length=128,
        additional_special_tokens=["<|stop|>"],
    )
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def make_model(folder: Path, *, chat: bool = True, seed: int = 0) -> Path:
    """A Llama of 2 layers and 28 words, random but not flat, saved like any other model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [2, 4]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """Path of a tiny chat model; its generation config has two end-of-sequence tokens, 2 and 4."""
    return str(make_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory) -> str:
    """Path of a tiny model without a chat template."""
    return str(make_model(tmp_path_factory.mktemp("tiny-base"), chat=False))


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts_of(count: int, offset: int = 0) -> list[dict]:
    """Distinct prompts of unequal length."""
    rows = []
    for i in range(offset, offset + count):
        digits = [WORDS[(i // len(WORDS) ** k) % len(WORDS)] for k in range(2)]
        rows.append({"prompt": " ".join([*digits, *WORDS[: i % 5]]), "number": i})
    return rows


@pytest.fixture
def pools(tmp_path) -> dict[str, str]:
    """Files of 16 prompts to train on and 8 held out."""
    return {
        "train": write_jsonl(tmp_path / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(tmp_path / "heldout.jsonl", prompts_of(8, offset=40)),
    }


def happiness(prompts, responses, records):
    """A reward for the tiny model: good words minus bad ones."""
    good, bad = {"good", "great", "nice", "happy"}, {"bad", "awful", "poor", "sad"}
    return [float(sum((w in good) - (w in bad) for w in text.split())) for text in responses]
