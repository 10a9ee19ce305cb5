"""The chat template is applied exactly once, and a prompt's id is a function of what is asked alone."""

import pytest
from tokenizers.processors import TemplateProcessing

from lit_align.data.templates import content_id, encode, encode_responses, end_of_turn, render
from tests.conftest import make_tokenizer

CHAT = [{"role": "system", "content": "very nice"}, {"role": "user", "content": "the cat"}]


def with_bos(chat: bool):
    """A tokenizer that puts its BOS before every text, as Llama's does."""
    tokenizer = make_tokenizer(chat)
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return tokenizer


def tokens(tokenizer, record: dict) -> list[str]:
    prompts = encode(tokenizer, [record])
    return tokenizer.convert_ids_to_tokens(prompts.ids[0][prompts.mask[0]].tolist())


def test_a_prompt_is_a_chat_of_one_message():
    tokenizer, chat = make_tokenizer(), [{"role": "user", "content": "the cat"}]
    assert tokens(tokenizer, {"prompt": "the cat"}) == tokens(tokenizer, {"messages": chat})


def test_a_chat_ends_where_the_assistant_begins():
    expected = "<|start|> system very nice <|end|> <|start|> user the cat <|end|> <|start|> assistant"
    assert tokens(make_tokenizer(), {"messages": CHAT}) == expected.split()


def test_no_special_token_is_added_to_a_rendered_chat():
    assert with_bos(chat=True)("the")["input_ids"][0] == 1
    assert tokens(with_bos(chat=True), {"messages": CHAT}) == tokens(make_tokenizer(), {"messages": CHAT})


def test_a_plain_prompt_gets_the_tokenizers_own_special_tokens():
    assert tokens(with_bos(chat=False), {"prompt": "the cat"}) == ["<|start|>", "the", "cat"]
    assert render(make_tokenizer(chat=False), {"prompt": "the cat"}) == "the cat"


def test_messages_need_a_chat_template():
    with pytest.raises(ValueError, match=r"no chat template.*`messages`"):
        render(make_tokenizer(chat=False), {"messages": CHAT})


def test_a_system_message_opens_a_chat_that_has_none_of_its_own():
    tokenizer, user = make_tokenizer(), CHAT[1:]
    assert render(tokenizer, {"prompt": "the cat"}, "very nice") == render(tokenizer, {"messages": CHAT})
    assert render(tokenizer, {"messages": user}, "very nice") == render(tokenizer, {"messages": CHAT})
    assert render(tokenizer, {"messages": CHAT}, "very sad") == render(tokenizer, {"messages": CHAT})
    assert user == CHAT[1:]
    together = encode(tokenizer, [{"prompt": "the cat"}], "very nice")
    assert together.ids.tolist() == encode(tokenizer, [{"messages": CHAT}]).ids.tolist()


def test_a_system_message_needs_a_chat_template():
    with pytest.raises(ValueError, match=r"no chat template.*system message"):
        render(make_tokenizer(chat=False), {"prompt": "the cat"}, "very nice")


def test_encoding_together_is_encoding_alone_with_padding_on_the_left():
    tokenizer = make_tokenizer()
    records = [{"prompt": "the cat"}, {"prompt": "a very nice day", "topic": "sun"}, {"messages": CHAT}]
    together = encode(tokenizer, records)
    for row, record in enumerate(records):
        alone = encode(tokenizer, [record])
        assert together.ids[row][together.mask[row]].tolist() == alone.ids[0].tolist()
        assert together.mask[row].tolist() == sorted(together.mask[row].tolist())
        assert together.record_id[row] == alone.record_id[0] == content_id(record)
    assert together.records == records


def test_the_content_id_is_the_same_on_every_machine():
    assert content_id({"prompt": "the cat"}) == 2956100733481318248
    assert 0 <= content_id({"messages": CHAT}) < 2**63


def test_only_what_is_asked_counts_for_the_content_id():
    swapped = [{"content": m["content"], "role": m["role"]} for m in CHAT]
    assert content_id({"messages": swapped, "topic": "sun"}) == content_id({"messages": CHAT})
    assert content_id({"number": 1, "prompt": "the cat"}) == content_id({"prompt": "the cat", "number": 2})


def test_any_change_of_what_is_asked_changes_the_content_id():
    other_role = [CHAT[0] | {"role": "user"}, CHAT[1]]
    asked: list[dict] = [{"prompt": p} for p in ("the cat", "the Cat", "the cat ", "the cats", "cat the")]
    asked += [{"messages": m} for m in (CHAT, CHAT[1:], CHAT[::-1], other_role)]
    assert len({content_id(record) for record in asked}) == len(asked)


def with_template(template: str):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


TURNS = "{% for m in messages %}<|start|>{{ m['role'] }} {{ m['content'] }}{END}{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<|start|>assistant {% endif %}"


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (TURNS.replace("{END}", "<|stop|>") + ANSWER, "<|stop|>"),
        (TURNS.replace("{END}", " ") + ANSWER, "<|end|>"),  # a template that marks no end
        (TURNS.replace("{END}", "<|stop|>") + "{% if add_generation_prompt %}<|start|>user {% endif %}", "<|end|>"),
        (None, "<|end|>"),
    ],
)
def test_a_turn_ends_with_the_templates_special_token_or_the_end_of_sequence(template, token):
    tokenizer = with_template(template)
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(token)
    prompts = encode(tokenizer, [{"prompt": "the cat"}])
    responses = encode_responses(tokenizer, prompts, [["good", "not bad"]], max_tokens=8)
    rows = [row[kept].tolist() for row, kept in zip(responses.ids[0], responses.mask[0], strict=True)]
    assert [tokenizer.convert_ids_to_tokens(row) for row in rows] == [["good", token], ["not", "bad", token]]


def test_a_tokenizer_without_any_end_is_refused():
    tokenizer = make_tokenizer(chat=False)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        end_of_turn(tokenizer)


def test_no_special_token_opens_a_written_response():
    tokenizer = with_bos(chat=False)
    prompts = encode(tokenizer, [{"prompt": "the cat"}])
    responses = encode_responses(tokenizer, prompts, [["good"]], max_tokens=8)
    assert tokenizer.convert_ids_to_tokens(responses.ids[0, 0].tolist()) == ["good", "<|end|>"]
    assert not responses.drawn
    assert responses.sample_logps.isnan().all()
