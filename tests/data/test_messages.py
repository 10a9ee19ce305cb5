"""Whatever a conversation holds arrives in its prompt, or the row is refused by what it asks."""

import json
import re
from datetime import date

import pytest

from lit_align.data.templates import Chat, content_id, encode, render
from lit_align.types import Prompts, spoken
from tests.data.layouts import CHATML, GEMMA_3, LLAMA_3_2, MISTRAL, MISTRAL_NEMO, QWEN_2_5, SMOLVLM, byte_tokenizer

USER = {"role": "user", "content": "Name a day."}
CALL = {"id": "123456789", "type": "function", "function": {"name": "today", "arguments": {"zone": "utc"}}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "content": "Sunday", "tool_call_id": "123456789"}
TOOLS = [{"type": "function", "function": {"name": "today", "parameters": {"type": "object", "properties": {}}}}]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def chat(template: str, **options) -> Chat:
    tokenizer = byte_tokenizer(SPECIAL, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = template
    return Chat(tokenizer, **options)


def in_parts(message: dict) -> dict:
    return message | {"content": [{"type": "text", "text": message["content"][:4]}, {"text": message["content"][4:]}]}


@pytest.mark.parametrize("template", [CHATML, GEMMA_3, SMOLVLM, MISTRAL])
def test_content_in_parts_is_one_text(template):
    whole, parts = ({"messages": [message]} for message in (USER, in_parts(USER)))
    assert "Name a day." in render(chat(template), whole)
    assert render(chat(template), parts) == render(chat(template), whole)
    assert Prompts.texts.fget(encode(chat(template), [parts])) == ["Name a day."]


def test_a_part_that_is_no_text_is_refused_with_the_row():
    picture = [{"type": "text", "text": "What is it?"}, {"type": "image", "url": "x.png"}]
    messages = [USER, {"role": "assistant", "content": "Sunday."}, {"role": "user", "content": picture}, USER]
    with pytest.raises(ValueError, match=r"a part of type image.*the row that asks 'Name a day\.'"):
        render(chat(CHATML), {"messages": messages})


@pytest.mark.parametrize("arguments", [{"zone": "utc"}, '{"zone": "utc"}', {"zone": "utc", "unit": None}])
@pytest.mark.parametrize("content", [None, "", "Let me see."])
@pytest.mark.parametrize("template", [QWEN_2_5, LLAMA_3_2, MISTRAL_NEMO])
def test_tool_calls_and_answers_arrive_however_the_data_spell_them(template, content, arguments):
    call = CALL | {"function": {"name": "today", "arguments": arguments}}
    calling = {"role": "assistant", "content": content, "tool_calls": [call], "tool_call_id": None}
    if content and template is not QWEN_2_5:  # these two have no place for both
        with pytest.raises(ValueError, match=r"leaves out the content of the assistant.*'Name a day\.'"):
            render(chat(template), {"messages": [USER, calling, ANSWERED]})
        return
    found = render(chat(template), {"messages": [USER | {"tool_calls": None}, calling, ANSWERED]})
    assert re.search(r'"name": "today".*\{"zone": "utc"\}', found)
    assert found.count("Sunday") == 1
    assert "None" not in found
    assert "\\" not in found.replace('"Sunday"', "")  # no JSON inside JSON


@pytest.mark.parametrize("messages", [[USER, CALLING, ANSWERED], [USER, {"role": "tool", "content": "Sunday"}]])
def test_a_tool_that_the_template_drops_or_refuses_is_refused_with_the_row(messages):
    blind = CHATML.replace("{{'<|im_start|>'", "{% if message['role'] == 'tool' %}{% else %}{{'<|im_start|>'")
    blind = blind.replace("+ '\n'}}", "+ '\n'}}{% endif %}")
    for template, why in ((blind, "leaves out"), (MISTRAL, "refuses it")):
        with pytest.raises(ValueError, match=rf"the chat template {why}.*the row that asks 'Name a day\.'"):
            render(chat(template), {"messages": messages})


def test_a_tool_call_without_an_answer_is_refused_with_the_row():
    with pytest.raises(ValueError, match=r"tool call that no tool has answered: the row that asks 'Name a day\.'"):
        render(chat(QWEN_2_5), {"messages": [USER, CALLING]})


def test_tools_arrive_or_are_refused():
    template = QWEN_2_5 + "{%- if tools %}{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}{%- endif %}"
    for tools in (TOOLS, json.dumps(TOOLS)):
        record = {"prompt": "Name a day.", "tools": tools}
        assert '"name": "today"' in render(chat(template), record)
        with pytest.raises(ValueError, match=r"leaves out the tools.*'Name a day\.'"):
            render(chat(QWEN_2_5), record)
    assert content_id({"prompt": "x", "tools": TOOLS}) != content_id({"prompt": "x"})
    for other in ("hammer", ["hammer"], '["hammer"]', 3):
        record = {"prompt": "Name a day.", "tools": other}  # a column that is about something else
        assert render(chat(QWEN_2_5), record) == render(chat(QWEN_2_5), {"prompt": "Name a day."})
        assert content_id(record) == content_id({"prompt": "Name a day."})


def test_a_row_whose_roles_the_template_refuses_is_named_and_not_the_system_message():
    gemma = chat(GEMMA_3, system="Be nice.")
    with pytest.raises(ValueError, match=r"^the chat template refuses it \(Conversation roles.*'Name a day\.'$"):
        render(gemma, {"messages": [USER, USER]})


def test_a_template_of_a_row_decides_for_each_tokenizer_anew():
    one = chat(CHATML, system="Be nice.")
    assert "Be nice." in render(one, {"prompt": "Name a day."})
    one.tokenizer.chat_template = MISTRAL
    with pytest.raises(ValueError, match=r"policy\.system"):
        render(one, {"prompt": "Name a day."})


def test_judges_read_the_users_request_alone():
    system = {"role": "system", "content": "Be nice."}
    begun = {"role": "assistant", "content": "It is"}
    records = [
        {"messages": [system, USER]},
        {"messages": [USER, CALLING, ANSWERED]},
        {"messages": [{"role": "user", "content": "Hello"}, begun, in_parts(USER), begun]},
    ]
    prompts = encode(chat(QWEN_2_5), records)
    assert prompts.texts == ["Name a day."] * 3
    assert spoken(records[0]) == spoken(records[1]) == [("user", "Name a day.")]
    assert spoken(records[2]) == [("user", "Hello"), ("assistant", "It is"), ("user", "Name a day.")]


def test_a_template_writes_the_day_that_it_is_told():
    may, june = (chat(LLAMA_3_2, day=date(2024, month, 2)) for month in (5, 6))
    record = {"prompt": "Name a day."}
    assert "Today Date: 02 May 2024" in render(may, record)
    assert render(may, record).replace("May", "Jun") == render(june, record)
    assert f"Today Date: {date.today():%d %b %Y}" in render(chat(LLAMA_3_2), record)
    assert may.writes_the_day
    assert not chat(CHATML).writes_the_day
