"""An answer ends at the union of all ends that are named, which is settled or refused before any weights load."""

import pytest

from lit_align.data.templates import Chat
from lit_align.data.turns import Turn, ends_of, turn_of
from tests.conftest import make_tokenizer
from tests.data.layouts import CHATML, byte_tokenizer

TURNS = "{% for m in messages %}<|start|>{{ m['role'] }} {{ m['content'] }}{END}{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<|start|>assistant {% endif %}"


def chat_of(template: str | None, tokenizer=None, eos: str | None = "<|end|>") -> Chat:
    tokenizer = tokenizer or make_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    return Chat(tokenizer)


def names(chat: Chat, *configured: int, vocabulary: int | None = None) -> tuple[str, set[str]]:
    ends = ends_of(chat, turn_of(chat), configured, vocabulary)
    convert = chat.tokenizer.convert_ids_to_tokens
    return convert(ends.written), set(convert(list(ends.ids)))


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (TURNS.replace("{END}", "<|stop|>") + ANSWER, "<|stop|>"),
        (TURNS.replace("{END}", " \n<|stop|>\n") + ANSWER, "<|stop|>"),
        (TURNS.replace("{END}", "<|stop|><|end|>") + ANSWER, "<|stop|>"),
        (TURNS.replace("{END}", " ") + ANSWER, "<|end|>"),  # it marks no end
        (TURNS.replace("{END}", " ") + "<|start|>assistant ", "<|end|>"),  # and always begins the next answer
        (TURNS.replace("{END}", "<|stop|>") + ANSWER.replace("assistant", "user"), "<|stop|>"),
        (TURNS.replace("{END}", "{{ '<|stop|>' if not loop.last }}") + ANSWER, "<|stop|>"),
        (TURNS.replace("{END}", "{{ ' ' if not loop.last }}") + ANSWER, "<|end|>"),
        ("{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}" + TURNS.replace("{END}", ""), "<|end|>"),
        (
            "{% for m in messages %}{{ m['content'] }}<|stop|>{% endfor %}{% if add_generation_prompt %}: {% endif %}",
            "<|stop|>",
        ),
        (None, "<|end|>"),
    ],
)
def test_an_answer_ends_with_what_follows_the_content_of_a_turn_or_the_end_of_sequence(template, token):
    assert names(chat_of(template)) == (token, {token, "<|end|>"})


def test_a_piece_of_the_vocabulary_ends_a_turn_as_well():
    assert names(chat_of(TURNS.replace("{END}", " sun ") + ANSWER))[0] == "sun"


def test_sampling_stops_at_the_ends_of_all_who_name_one():
    chat = chat_of(TURNS.replace("{END}", "<|stop|>") + ANSWER)
    assert names(chat, 0, 10) == ("<|stop|>", {"<|stop|>", "<|end|>", "<|pad|>", "great"})
    assert names(chat_of(None), 4) == ("<|end|>", {"<|end|>", "<|stop|>"})
    assert names(chat_of(None, eos=None), 4) == ("<|stop|>", {"<|stop|>"})


def test_an_end_that_the_model_cannot_draw_is_none():
    assert names(chat_of(None), 500, -1, vocabulary=28) == ("<|end|>", {"<|end|>"})
    with pytest.raises(ValueError, match=r"<\|stop\|> \(4\), which the model cannot draw: it has 3 tokens"):
        names(chat_of(TURNS.replace("{END}", "<|stop|>") + ANSWER), vocabulary=3)


def test_no_end_anywhere_is_refused():
    for configured in ((), (500,)):
        with pytest.raises(ValueError, match=r"^no token ends an answer: neither the generation config .*eos_token$"):
            names(chat_of(None, eos=None), *configured, vocabulary=28)


def test_an_end_of_several_tokens_is_refused():
    plain = byte_tokenizer(["<|endoftext|>"])
    with pytest.raises(ValueError, match=r"ends an answer with '<\|im_end\|>', which is no single token"):
        turn_of(chat_of(CHATML, plain, "<|endoftext|>"))
    with pytest.raises(ValueError, match=r"ends an answer with 'halt', which is no single token"):
        turn_of(chat_of(TURNS.replace("{END}", " halt") + ANSWER))  # an unknown word


def test_an_end_that_the_template_writes_before_an_answer_is_refused():
    template = TURNS.replace("{{ m['content'] }}", "{{ '<|end|>' if m['role'] == 'assistant' }}{{ m['content'] }}")
    chat = chat_of(template.replace("{END}", "<|stop|>") + ANSWER)
    assert turn_of(chat).before == "<|end|>"
    with pytest.raises(ValueError, match=r"^<\|end\|> ends an answer .* the chat template writes it before an answer"):
        ends_of(chat, turn_of(chat), (), None)


def test_a_turn_is_what_stands_around_an_answer():
    trimmed = TURNS.replace("{{ m['content'] }}", "[{{ m['content'] | trim }}]").replace("{END}", " <|stop|>")
    assert turn_of(chat_of(trimmed + ANSWER)) == Turn("<|start|>assistant ", "[", "] ", 4, (True, True))
    assert turn_of(chat_of(None)) == Turn()


def test_one_line_says_what_ends_an_answer():
    chat = chat_of(TURNS.replace("{END}", "<|stop|>") + ANSWER)
    told = ends_of(chat, turn_of(chat), (), None).told(chat.tokenizer)
    assert told == "answers end at <|end|> (2), <|stop|> (4); written ones end with <|stop|>"
