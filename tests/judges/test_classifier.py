"""A reward model gives each conversation what plain transformers gives to it alone, whatever pads and architectures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertTokenizer

from lit_align import RewardModel
from tests.conftest import CHAT, WORDS, make_tokenizer

END = 2  # the id of <|end|>, which closes every turn of the chat template
PROMPTS = ["the cat", " ".join(WORDS[:9]), "rain", "a day and the sun"]
RESPONSES = ["good", "not bad", " ".join(WORDS * 2), "sad rain was awful"]
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
SEGMENTED = {"bert": {}, "electra": {"embedding_size": 16}, "deberta-v2": {"type_vocab_size": 2}}
CONVOLVED = {"convbert": {"embedding_size": 16, "head_ratio": 2}}  # its convolutions reach beyond a row's last token
LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [6.0] * 4, "rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
STRETCHED = {
    "phi3": {"rope_parameters": LONG_ROPE | {"original_max_position_embeddings": 14}},
    "llama": {"rope_parameters": DYNAMIC, "max_position_embeddings": 14},
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_positions": 128},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gemma": {"head_dim": 8, "num_key_value_heads": 1},
    "gemma3_text": {"head_dim": 8, "num_key_value_heads": 1, "sliding_window": 8},
    "bloom": {"n_head": 2},
    **SEGMENTED,
}


def pair_tokenizer() -> Any:
    """Prompt and response are two segments that end with [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def saved(folder: Path, kind: str, options: dict, *, pad: int | None, tokenizer: Any, **more: Any) -> str:
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        kind,
        **SHAPE | {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": pad, "eos_token_id": END} | options,
        bos_token_id=None,
        **more,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def alone(folder: str, tokenizer: Any, *, segments: bool = False) -> torch.Tensor:
    """Each conversation by a plain pass of a network that has seen no other."""
    scores = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        if tokenizer.chat_template is None:
            row = tokenizer(prompt, response)
        else:
            chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            row = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
        names = ["input_ids", "token_type_ids"] if segments else ["input_ids"]
        network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        scores.append(network(**{name: torch.tensor([row[name]]) for name in names}).logits[0, 0])
    return torch.stack(scores)


def judged(judge: RewardModel, rows=(0, 1, 2, 3)) -> torch.Tensor:
    columns = [[column[i] for i in rows] for column in (PROMPTS, RESPONSES)]
    return torch.tensor(judge.rewards(*columns, [{} for _ in rows]))


def assert_right(judge: RewardModel, expected: torch.Tensor) -> None:
    assert expected.unique().numel() == len(expected)
    torch.testing.assert_close(judged(judge), expected, rtol=1e-4, atol=1e-4)
    order = [2, 0, 3, 1]  # again, beside others, by the same judge
    torch.testing.assert_close(judged(judge, order), expected[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pad", [None, 0, END, -1], ids=["no pad", "a pad", "pad is eos", "pad of no word"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_in_a_batch_has_the_score_it_has_alone(tmp_path, caplog, kind, pad):
    tokenizer = make_tokenizer()
    folder = saved(tmp_path, kind, KINDS[kind], pad=pad, tokenizer=tokenizer)
    assert_right(RewardModel(folder, batch_size=3), alone(folder, tokenizer))
    assert "one at a time" not in caplog.text


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("own", [None, 4], ids=["the tokenizer has no pad", "the tokenizer has another pad"])
def test_the_padding_of_the_tokenizer_changes_nothing(tmp_path, own, side):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    tokenizer.pad_token = None if own is None else tokenizer.convert_ids_to_tokens(own)
    folder = saved(tmp_path, "gpt2", KINDS["gpt2"], pad=3, tokenizer=tokenizer)
    assert_right(RewardModel(folder), alone(folder, tokenizer))


def test_the_padding_that_is_added_to_a_checkpoint_without_any_ends_no_conversation(tmp_path, caplog):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT.replace("<|end|>", "<|pad|>")  # every turn ends with token 0
    folder = saved(tmp_path, "llama", {}, pad=None, tokenizer=tokenizer)
    assert_right(RewardModel(folder), alone(folder, tokenizer))
    assert "one at a time" not in caplog.text


def test_a_checkpoint_that_pads_with_the_end_keeps_its_own_reading(tmp_path):
    """It reads the token before the end, and so does every batch."""
    tokenizer = make_tokenizer()
    scores = []
    for pad in (END, 0):
        folder = saved(tmp_path / str(pad), "llama", {}, pad=pad, tokenizer=tokenizer)
        scores.append(judged(RewardModel(folder)))
    assert (scores[0] - scores[1]).abs().min() > 1e-3


@pytest.mark.parametrize("kind", SEGMENTED)
def test_prompt_and_response_are_two_segments_to_a_network_that_knows_segments(tmp_path, kind):
    tokenizer = pair_tokenizer()
    folder = saved(tmp_path, kind, SEGMENTED[kind], pad=0, tokenizer=tokenizer)
    expected = alone(folder, tokenizer, segments=True)
    assert (expected - alone(folder, tokenizer)).abs().min() > 1e-3
    assert_right(RewardModel(folder), expected)


@pytest.mark.parametrize(("kind", "options"), [("gpt2", {}), ("roberta", {"type_vocab_size": 1})])
def test_segments_are_kept_from_a_network_that_has_no_weights_for_them(tmp_path, kind, options):
    tokenizer = pair_tokenizer()
    folder = saved(tmp_path, kind, options, pad=1, tokenizer=tokenizer)
    assert_right(RewardModel(folder), alone(folder, tokenizer))


@pytest.mark.parametrize("kind", STRETCHED)
def test_a_longer_conversation_does_not_stretch_the_frequencies_of_another(tmp_path, kind):
    tokenizer = make_tokenizer()
    options = STRETCHED[kind] | {"num_attention_heads": 2}
    folder = saved(tmp_path, kind, options, pad=0, tokenizer=tokenizer)
    judge, expected = RewardModel(folder), alone(folder, tokenizer)
    assert_right(judge, expected)
    for row in (2, 1):  # one that stretches them most, and then a shorter one that stretches them too
        torch.testing.assert_close(judged(judge, [row]), expected[[row]], rtol=1e-4, atol=1e-4)


def test_where_a_batch_changes_scores_rows_are_scored_one_at_a_time_and_one_line_says_so(tmp_path, caplog):
    tokenizer = make_tokenizer()
    folder = saved(tmp_path, "convbert", CONVOLVED["convbert"], pad=0, tokenizer=tokenizer)
    assert_right(RewardModel(folder), alone(folder, tokenizer))
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("lit_align")]
    assert "is not scored as its rows are alone: scores differ by up to" in line
    assert line.endswith("rows are scored one at a time from here on")


@pytest.mark.parametrize("head", ["v_head.weight", "value_head.weight", "reward_head.weight", None])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_checkpoint_without_its_head_is_refused(tmp_path, kind, head):
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path, kind, KINDS[kind], pad=0, tokenizer=make_tokenizer())
    state = load_file(tmp_path / "model.safetensors")
    own = "score.weight" if kind == "llama" else "classifier.weight"
    weight = state.pop(own)
    if head is not None:
        state[head] = weight
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    besides = rf", and has {head} in its place" if head else ""
    with pytest.raises(ValueError, match=rf"judge\.model: .* lacks {own} of \w+{besides}: .* random numbers"):
        judged(RewardModel(folder))


def test_a_batch_has_at_least_one_row():
    with pytest.raises(ValueError, match=r"judge\.batch_size must be >= 1, got 0"):
        RewardModel("some/model", batch_size=0)
