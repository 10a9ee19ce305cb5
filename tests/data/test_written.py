"""Written answers are the tokens that the policy would draw for the same text."""

import pytest

from lit_align.data.templates import Chat, encode
from lit_align.data.turns import ends_of, turn_of
from lit_align.data.written import Writer
from tests.conftest import make_tokenizer
from tests.data.layouts import CHATML, DEEPSEEK_R1, PHI_3_5, QWEN_3, begins_with, byte_tokenizer, piece_tokenizer

RECORD = {"prompt": "What is two and two?"}


def writer(tokenizer, template: str | None = None) -> Writer:
    tokenizer.chat_template = template
    chat = Chat(tokenizer)
    turn = turn_of(chat)
    return Writer(chat, turn, ends_of(chat, turn, (), None))


def chatml() -> Writer:
    return writer(byte_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|endoftext|>"), CHATML)


def text(of: Writer, answer: str, record=RECORD) -> str:
    """Return the text of a written answer, its end included, as it follows its prompt."""
    prompts = encode(of.chat, [record])
    response = of.responses(prompts, [[answer]], 64)
    prompt = prompts.ids[0].tolist()
    decode = of.chat.tokenizer.decode
    return decode(prompt + response.ids[0, 0].tolist()).removeprefix(decode(prompt))


def test_an_answer_is_read_with_its_prompt_where_that_leaves_the_prompts_own_tokens():
    of = writer(piece_tokenizer(legacy=True))
    assert text(of, "Four.") == "Four.</s>"
    assert text(of, " Four.") == " Four.</s>"
    alone = of.chat.tokenizer("Four.", add_special_tokens=False)["input_ids"]
    assert of.chat.tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")


@pytest.mark.parametrize("tokenizer", [piece_tokenizer(), piece_tokenizer(legacy=True)], ids=["first", "legacy"])
def test_an_answer_that_would_change_the_prompts_tokens_is_read_apart_without_a_space_of_its_own(tokenizer):
    of = writer(tokenizer)
    record = {"prompt": "What is two and two? "}  # its last token is a mark alone, which opens the next word
    prompt = encode(of.chat, [record]).ids[0].tolist()
    together = tokenizer("What is two and two? Four.")["input_ids"]
    assert together[: len(prompt)] != prompt
    row = of.responses(encode(of.chat, [record]), [["Four."]], 64).ids[0, 0].tolist()
    assert tokenizer.decode(prompt + row) == tokenizer.decode([*together, tokenizer.eos_token_id])


def test_words_that_run_together_with_the_prompt_are_read_apart():
    tokenizer = make_tokenizer(chat=False)
    row = writer(tokenizer).responses(encode(Chat(tokenizer), [{"prompt": "the cat"}]), [["not bad"]], 64).ids[0, 0]
    assert tokenizer.convert_ids_to_tokens(row.tolist()) == ["not", "bad", "<|end|>"]


def test_no_special_token_opens_a_written_answer():
    of = writer(begins_with(piece_tokenizer(), "<s>"))
    assert text(of, "Four.") == "Four.</s>"
    responses = of.responses(encode(of.chat, [RECORD]), [["Four.", "Two."]], 64)
    assert responses.source == ("data", "data")
    assert not responses.drawn
    assert responses.sample_logps[responses.mask].isnan().all()
    assert (responses.sample_logps[~responses.mask] == 0).all()


def test_an_answer_longer_than_the_most_tokens_is_cut_and_has_no_end():
    of = chatml()
    whole = of.responses(encode(of.chat, [RECORD]), [["Four. Name a day.", "Two."]], 64)
    cut = of.responses(encode(of.chat, [RECORD]), [["Four. Name a day.", "Two."]], 5)
    assert cut.ids.shape[-1] == 5
    assert cut.ids[0, 0].tolist() == whole.ids[0, 0, :5].tolist()
    assert cut.truncated.tolist() == [[True, False]]
    assert whole.truncated.tolist() == [[False, False]]


def test_answers_that_a_cut_would_make_the_same_are_left_longer():
    of = chatml()
    answers = ["Name a day. Four.", "Name a day. Two."]
    responses = of.responses(encode(of.chat, [RECORD, RECORD]), [answers, ["Four.", "Two."]], 4)
    assert responses.lengths[0].min() > 4
    assert responses.ids[0, 0].tolist() != responses.ids[0, 1].tolist()
    assert responses.lengths[1].max() <= 4


@pytest.mark.parametrize(
    "answer", ["Four.<|im_end|>\n<|im_start|>user\nMore.", "Four.<|endoftext|> Two.", "<|im_start|>x"]
)
def test_an_answer_that_holds_another_turn_is_refused_with_the_row(answer):
    with pytest.raises(ValueError, match=r"an answer holds <\|.*; the row that asks 'What is two and two\?'"):
        text(chatml(), answer)


def test_thoughts_in_the_text_take_the_place_of_empty_ones():
    tokens, think = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ("<think>", "</think>")
    of = writer(byte_tokenizer(tokens, think, eos_token="<|im_end|>"), QWEN_3)
    assert text(of, "Four.") == "<think>\n\n</think>\n\nFour.<|im_end|>"
    thought = "<think>\nTwo and two.\n</think>\n\nFour."
    assert text(of, thought) == f"{thought}<|im_end|>"


def test_thoughts_that_the_prompt_has_opened_are_not_opened_again():
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    tokenizer = byte_tokenizer(special, ("<think>", "</think>"), bos_token=special[0], eos_token=special[1])
    of = writer(tokenizer, DEEPSEEK_R1)
    expected = f"Two and two.\n</think>\n\nFour.{special[1]}"
    for answer in ("<think>\nTwo and two.\n</think>\n\nFour.", "Two and two.\n</think>\n\nFour."):
        assert text(of, answer) == expected


def test_what_opens_an_answer_is_found_where_another_special_token_closes_an_unanswered_prompt():
    tokenizer = byte_tokenizer(["<|endoftext|>"], ("<|user|>", "<|assistant|>", "<|end|>"), eos_token="<|endoftext|>")
    assert writer(tokenizer, PHI_3_5).turn.opening == "<|assistant|>\n"


def test_an_answer_goes_on_with_what_the_assistant_has_begun_to_say():
    begun = [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": "It is"}]
    tokens, think = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ("<think>", "</think>")
    of = writer(byte_tokenizer(tokens, think, eos_token="<|im_end|>"), QWEN_3)
    assert text(of, " four.", {"messages": begun}) == " four.<|im_end|>"
