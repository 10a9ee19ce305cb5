"""The chat template is applied exactly once, and a prompt's id is a function of what is asked alone."""

from functools import partial

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import LlamaTokenizerFast

from lit_align.data.templates import Chat, content_id, encode, render
from tests.conftest import make_tokenizer
from tests.data.layouts import byte_tokenizer, piece_tokenizer

CHAT = [{"role": "system", "content": "very nice"}, {"role": "user", "content": "the cat"}]


def with_bos(chat: bool):
    """A tokenizer that puts its BOS before every text, as Llama's does."""
    tokenizer = make_tokenizer(chat)
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return tokenizer


def tokens(tokenizer, record: dict) -> list[str]:
    prompts = encode(Chat(tokenizer), [record])
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
    assert render(Chat(make_tokenizer(chat=False)), {"prompt": "the cat"}) == "the cat"


CLOSED = {  # how tokenizers close what they read
    "llama's way": (piece_tokenizer, "<s> $A </s>", ("<s>", "</s>")),
    "an end alone": (piece_tokenizer, "$A </s>", ("</s>",)),
    "two ends": (piece_tokenizer, "$A </s> </s>", ("</s>",)),
    "another token": (partial(piece_tokenizer, ("<sep>",)), "<s> $A <sep>", ("<s>", "<sep>")),
    "byte-level": (partial(byte_tokenizer, ["<|end|>"], eos_token="<|end|>"), "$A <|end|>", ("<|end|>",)),
    "not at all": (piece_tokenizer, "<s> $A", ("<s>",)),
}


@pytest.mark.parametrize("way", CLOSED)
def test_a_plain_prompt_is_never_closed(way):
    make, single, special = CLOSED[way]
    tokenizer = make()
    bare = tokenizer("What is two?", add_special_tokens=False)["input_ids"]
    tokens = [(token, tokenizer.convert_tokens_to_ids(token)) for token in special]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=tokens)
    begins = [1] if single.startswith("<s>") else []
    for text in ("What is two?", f"What is two?{tokenizer.eos_token}"):
        assert encode(Chat(tokenizer), [{"prompt": text}]).ids[0].tolist() == begins + bare


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tokenizer_that_adds_an_end_of_its_own_accord_does_not_close_a_prompt(legacy, tmp_path):
    piece_tokenizer(legacy=legacy).save_pretrained(tmp_path)
    core = str(tmp_path / "tokenizer.json")
    open_, closed = (
        LlamaTokenizerFast(tokenizer_file=core, add_eos_token=adds, legacy=legacy) for adds in (False, True)
    )
    assert closed("two")["input_ids"][-1] == closed.eos_token_id
    ids = encode(Chat(closed), [{"prompt": "two"}]).ids[0].tolist()
    assert ids == open_("two")["input_ids"] == encode(Chat(open_), [{"prompt": "two"}]).ids[0].tolist()


def test_messages_need_a_chat_template():
    with pytest.raises(ValueError, match=r"no chat template.*`messages`"):
        render(Chat(make_tokenizer(chat=False)), {"messages": CHAT})


def test_a_system_message_opens_a_chat_that_has_none_of_its_own():
    tokenizer, user = make_tokenizer(), CHAT[1:]
    expected, nice = render(Chat(tokenizer), {"messages": CHAT}), Chat(tokenizer, "very nice")
    assert render(nice, {"prompt": "the cat"}) == expected
    assert render(nice, {"messages": user}) == expected
    assert render(Chat(tokenizer, "very sad"), {"messages": CHAT}) == expected
    assert user == CHAT[1:]
    together = encode(nice, [{"prompt": "the cat"}])
    assert together.ids.tolist() == encode(Chat(tokenizer), [{"messages": CHAT}]).ids.tolist()


def test_a_system_message_needs_a_chat_template():
    with pytest.raises(ValueError, match=r"no chat template.*system message"):
        render(Chat(make_tokenizer(chat=False), "very nice"), {"prompt": "the cat"})


def test_encoding_together_is_encoding_alone_with_padding_on_the_left():
    chat = Chat(make_tokenizer())
    records = [{"prompt": "the cat"}, {"prompt": "a very nice day", "topic": "sun"}, {"messages": CHAT}]
    together = encode(chat, records)
    for row, record in enumerate(records):
        alone = encode(chat, [record])
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
