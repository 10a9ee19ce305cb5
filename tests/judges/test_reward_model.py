"""A reward model scores each conversation alone: batch, order and padding do not matter; the chat template does."""

from pathlib import Path

import pytest
import torch

from lit_align import JudgeError, RewardModel
from tests.conftest import make_tokenizer
from tests.rounding import assert_same_but_rounding

PROMPTS = ["the cat", "a day and the sun", "rain", "the dog is happy"]
RESPONSES = ["good", "not bad and very nice", "sad sad sad rain was awful and poor", "great"]
RECORDS = [{"prompt": prompt} for prompt in PROMPTS]


def make_reward_model(folder: Path, *, chat: bool = True, labels: int = 1, pad: int | None = 0) -> str:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    tokenizer = make_tokenizer(chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        num_labels=labels,
        pad_token_id=pad,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> str:
    return make_reward_model(tmp_path_factory.mktemp("reward"))


def scores(path: str, rows=range(4), **options) -> torch.Tensor:
    judge = RewardModel(path, **options)
    columns = [[column[i] for i in rows] for column in (PROMPTS, RESPONSES, RECORDS)]
    return torch.tensor(judge.rewards(*columns))


def logit(path: str, tokens: list[int]) -> torch.Tensor:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_changes_nothing(chat_model, batch_size):
    whole = scores(chat_model)
    assert whole.unique().numel() == 4
    assert_same_but_rounding(scores(chat_model, batch_size=batch_size), whole)


def test_the_order_changes_nothing(chat_model):
    order = [2, 0, 3, 1]
    assert_same_but_rounding(scores(chat_model, order, batch_size=3), scores(chat_model, batch_size=3)[order])


def test_padding_changes_nothing(chat_model, tmp_path):
    alone = torch.cat([scores(chat_model, [i]) for i in range(4)])
    assert_same_but_rounding(scores(chat_model), alone)
    without_pad_id = make_reward_model(tmp_path, pad=None)
    assert_same_but_rounding(scores(without_pad_id), alone)


def test_a_chat_template_is_applied_when_there_is_one(chat_model):
    tokenizer = make_tokenizer()
    text = "<|start|>user the cat<|end|><|start|>assistant good<|end|>".replace("<|", " <|").replace("|>", "|> ")
    expected = logit(chat_model, tokenizer.convert_tokens_to_ids(text.split()))
    assert_same_but_rounding(scores(chat_model, [0])[0], expected)


def test_a_conversation_is_scored_whole(chat_model):
    messages = [{"role": "system", "content": "very nice"}, {"role": "user", "content": "the cat"}]
    (value,) = RewardModel(chat_model).rewards(["the cat"], ["good"], [{"messages": messages}])
    words = "<|start|> system very nice <|end|> <|start|> user the cat <|end|> <|start|> assistant good <|end|>"
    expected = logit(chat_model, make_tokenizer().convert_tokens_to_ids(words.split()))
    assert_same_but_rounding(torch.tensor(value), expected)


def test_without_a_chat_template_prompt_and_response_are_a_text_pair(tmp_path):
    path = make_reward_model(tmp_path, chat=False)
    expected = logit(path, make_tokenizer().convert_tokens_to_ids(["the", "cat", "good"]))
    assert_same_but_rounding(scores(path, [0])[0], expected)


def test_the_wins_are_bradley_terry_of_the_scores(chat_model):
    judge = RewardModel(chat_model, temperature=2.0)
    a, b = judge.rewards(["rain", "rain"], ["good", "sad"], [{"prompt": "rain"}] * 2)
    (win,) = judge.compare(["rain"], ["good"], ["sad"], [{"prompt": "rain"}])
    assert win == pytest.approx(torch.sigmoid(torch.tensor((a - b) / 2.0)).item(), abs=1e-6)


def test_a_classifier_of_two_labels_is_refused(tmp_path):
    path = make_reward_model(tmp_path, labels=2)
    with pytest.raises((ValueError, JudgeError), match=r"has 2 labels, a reward model has 1"):
        RewardModel(path).compare(["rain"], ["good"], ["sad"], [{"prompt": "rain"}])
