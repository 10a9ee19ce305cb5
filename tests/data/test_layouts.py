"""Real layouts of tokenizer and template: what a prompt is, where an answer ends, which tokens a written one has."""

from datetime import date

import pytest

from lit_align.data.templates import Chat, encode, render
from lit_align.data.turns import ends_of, turn_of
from lit_align.data.written import Writer
from tests.data.layouts import ASKED, SAID, layouts

LAYOUTS = layouts()
CHATS = [name for name, layout in LAYOUTS.items() if layout.tokenizer.chat_template is not None]
RECORD = {"prompt": ASKED}
every_layout = pytest.mark.parametrize("name", LAYOUTS)


def writer_of(name: str) -> Writer:
    layout = LAYOUTS[name]
    chat = Chat(layout.tokenizer)
    turn = turn_of(chat)
    configured = layout.tokenizer.convert_tokens_to_ids(list(layout.configured))
    return Writer(chat, turn, ends_of(chat, turn, configured, len(layout.tokenizer)))


def written(name: str, *answers: str, record=RECORD, max_tokens: int = 64) -> list[list[int]]:
    writer = writer_of(name)
    found = writer.responses(encode(writer.chat, [record]), [list(answers)], max_tokens)
    return [row[kept].tolist() for row, kept in zip(found.ids[0], found.mask[0], strict=True)]


def finished(name: str) -> list[int]:
    """The tokens of the whole conversation, as the template shows it, up to the end of the answer."""
    layout = LAYOUTS[name]
    chat = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    if name == "SmolVLM":
        chat = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in chat]
    text = layout.tokenizer.apply_chat_template(chat, tokenize=False)
    ids = layout.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = layout.tokenizer.convert_tokens_to_ids(layout.end)
    prompt = len(encode(Chat(layout.tokenizer), [RECORD]).ids[0])
    return ids[: ids.index(end, prompt) + 1] if end in ids[prompt:] else [*ids, end]


@every_layout
def test_a_prompt_is_what_the_family_reads(name):
    layout = LAYOUTS[name]
    ids = encode(Chat(layout.tokenizer), [RECORD]).ids[0].tolist()
    if name in CHATS:
        assert render(Chat(layout.tokenizer), RECORD) == layout.prompt
        assert ids == layout.tokenizer(layout.prompt, add_special_tokens=False)["input_ids"]
    else:
        assert layout.tokenizer.decode(ids) == layout.prompt


@every_layout
def test_sampling_stops_at_every_end_and_a_written_answer_has_the_templates(name):
    layout, ends = LAYOUTS[name], writer_of(name).ends
    assert ends.written == layout.tokenizer.convert_tokens_to_ids(layout.end)
    assert set(layout.tokenizer.convert_ids_to_tokens(list(ends.ids))) == {layout.end, *layout.others}
    told = ends.told(layout.tokenizer)
    assert all(f"{layout.tokenizer.convert_ids_to_tokens(token)} ({token})" in told for token in ends.ids)


@pytest.mark.parametrize("name", [name for name in CHATS if name != "DeepSeek-R1 distil"])
def test_prompt_and_written_answer_are_the_tokens_of_the_whole_conversation(name):
    prompt = encode(Chat(LAYOUTS[name].tokenizer), [RECORD]).ids[0].tolist()
    assert prompt + written(name, SAID)[0] == finished(name)


@every_layout
def test_a_written_answer_has_one_end_and_no_space_that_nobody_wrote(name):
    layout = LAYOUTS[name]
    prompt = encode(Chat(layout.tokenizer), [RECORD]).ids[0].tolist()
    (row,) = written(name, SAID)
    assert row[-1] == layout.tokenizer.convert_tokens_to_ids(layout.end)
    said = layout.tokenizer.decode(prompt + row[:-1]).removeprefix(layout.tokenizer.decode(prompt))
    assert said == layout.answer


@every_layout
def test_an_answer_that_brings_its_end_does_not_get_another(name):
    end = LAYOUTS[name].end
    bare, *others = written(name, SAID, SAID + end, f"{SAID}{end}\n", *(SAID + other for other in LAYOUTS[name].others))
    assert all(other == bare for other in others)


@pytest.mark.parametrize("name", CHATS)
def test_an_answer_that_brings_the_template_does_not_get_another(name):
    opening = writer_of(name).turn.opening
    bare, *others = written(name, SAID, LAYOUTS[name].prompt + SAID, opening + SAID)
    assert all(other == bare for other in others)


@pytest.mark.parametrize("name", CHATS)
def test_a_system_message_arrives_or_one_line_names_the_setting(name):
    layout = LAYOUTS[name]
    chat = Chat(layout.tokenizer, system="Be nice.")
    if layout.system == "model.policy.system":
        with pytest.raises(ValueError, match=r"^model\.policy\.system: .*set model\.policy\.system to null"):
            render(chat, RECORD)
    else:
        assert render(chat, RECORD) == layout.system


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in CHATS])
def test_a_system_message_needs_a_template(name):
    with pytest.raises(ValueError, match=r"no chat template.*system message"):
        render(Chat(LAYOUTS[name].tokenizer, system="Be nice."), RECORD)


@pytest.mark.parametrize("name", CHATS)
def test_a_prompt_that_ends_with_the_assistant_is_continued(name):
    messages = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Let me see:"}]
    text = render(Chat(LAYOUTS[name].tokenizer, day=date(2024, 5, 6)), {"messages": messages})
    assert text.endswith("Let me see:")
    (row,) = written(name, " Sunday.", record={"messages": messages})
    assert row.count(row[-1]) == 1


def test_the_table_is_of_many_families():
    assert len(LAYOUTS) >= 12
