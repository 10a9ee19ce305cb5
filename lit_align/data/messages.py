"""A conversation is put to its chat template so that whatever is in it arrives, or the row is refused.

Templates differ in what they ask of a tool call (arguments as a mapping or as a text, an empty content or none) and of
a text (as it is, or as a list of parts). Each way is tried on a stand-in of the conversation, in which a made-up word
stands for every text, and a way is taken where the template writes all of these words.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from lit_align.compat import dated_templates
from lit_align.types import Record, begun_answer, message_text

Message = dict[str, Any]

_IDS = ("id", "tool_call_id")  # templates check how long they are
_STAND_IN = "qz{}wort"


@dataclass(frozen=True)
class Way:
    """Says how a conversation is put to a template.

    Attributes:
        parts: Texts are lists of one part.
        argument_texts: The arguments of tool calls are JSON texts.
        no_content: A message of tool calls alone has no content, instead of an empty one.
    """

    parts: bool = False
    argument_texts: bool = False
    no_content: bool = False

    def of(self, messages: list[Message]) -> list[Message]:
        """Return the messages as the template is given them."""
        return [self._of(message) for message in messages]

    def _of(self, message: Message) -> Message:
        content = message["content"]
        changed = message | {"content": [{"type": "text", "text": content}] if self.parts else content}
        if "tool_calls" in message:
            changed["tool_calls"] = [self._call(call) for call in message["tool_calls"]]
            if self.no_content and not content:
                del changed["content"]
        return changed

    def _call(self, call: Message) -> Message:
        arguments = call["function"]["arguments"]
        arguments = json.dumps(arguments, ensure_ascii=False) if self.argument_texts else arguments
        return call | {"function": call["function"] | {"arguments": arguments}}


_WAYS = [Way(*choice) for choice in product((False, True), repeat=3)]


@dataclass(frozen=True)
class Conversation:
    """Holds what a record asks, in one spelling.

    Attributes:
        messages: Each has a ``role`` and a text ``content``; what is None in the data is left out, and the arguments
            of tool calls are mappings.
        tools: The functions that the assistant may call, as JSON schemas.
    """

    messages: list[Message]
    tools: list[Message] | None = None

    @property
    def continues(self) -> bool:
        """Tell whether an answer goes on with a text of the assistant's."""
        return bool(begun_answer({"messages": self.messages}))

    @property
    def says_something(self) -> bool:
        """Tell whether every message has a text or a tool call."""
        return all(message["content"].strip() or "tool_calls" in message for message in self.messages)

    def with_system(self, system: str) -> "Conversation":
        """Return this conversation after a system message."""
        return Conversation([{"role": "system", "content": system}, *self.messages], self.tools)

    def stand_in(self) -> "Conversation":
        """Return a conversation of the same form in which a made-up word stands for every text."""
        messages = [_stand_in(message, number) for number, message in enumerate(self.messages)]
        tools = [_renamed_tool(tool, number) for number, tool in enumerate(self.tools or [])]
        return Conversation(messages, tools or None)

    def words(self) -> Iterator[tuple[str, str]]:
        """Yield the words of a stand-in that a template has to write, each with what it stands for."""
        for number, message in enumerate(self.messages, 1):
            of = {"tool": "the tool's answer", "system": "the system message"}.get(
                message["role"], f"the content of the {message['role']}"
            )
            if message["content"]:
                yield message["content"], f"{of} (message {number})"
            for call in message.get("tool_calls", []):
                yield call["function"]["name"], f"a tool call (message {number})"
                yield from (
                    (value, f"an argument (message {number})") for value in call["function"]["arguments"].values()
                )
        for tool in self.tools or []:
            yield _named(tool)["name"], "the tools"


def conversation_of(record: Record) -> Conversation:
    """Return what a record asks; a plain prompt is a chat of one message.

    Raises:
        ValueError: It holds what is no conversation of texts and tool calls; the message does not name the row.
    """
    messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
    found = [_plain(message) for message in messages]
    if "tool_calls" in found[-1]:
        raise ValueError("its last message is a tool call that no tool has answered")
    return Conversation(found, tools_of(record))


def tools_of(record: Record) -> list[Message] | None:
    """Return the functions that the assistant may call: the schemas in a column ``tools``, a list or its JSON text."""
    tools = record.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:  # a column of this name that is about something else
            return None
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, Mapping) for tool in tools):
        return None
    return [_without_none(tool) for tool in tools]


def rendered(tokenizer: Any, conversation: Conversation, day: Any, *, answering: bool = True) -> str:
    """Return the text that a chat template makes of a conversation, nothing of it lost.

    Args:
        tokenizer: A tokenizer of transformers with a chat template.
        conversation: What is rendered.
        day: The day for a template that writes one; None is today.
        answering: Whether the assistant's answer is to follow; else all turns are finished.

    Raises:
        ValueError: The template refuses it or leaves out a part of it; the message does not name the row.
    """
    stand_in = conversation.stand_in()
    asked = json.dumps([stand_in.messages, stand_in.tools])
    way = _fitting_way(tokenizer, json.dumps(tokenizer.chat_template), asked, answering)
    return _applied(tokenizer, conversation, way, day, answering)


@lru_cache(maxsize=4096)
def _fitting_way(tokenizer: Any, template: str, asked: str, answering: bool) -> Way:
    """Return the first way in which the template writes all that there is; the form of a conversation decides."""
    del template  # it is a part of the key: a tokenizer may be given another
    stand_in, faults = Conversation(*json.loads(asked)), []
    has_calls = any("tool_calls" in message for message in stand_in.messages)
    for way in [way for way in _WAYS if has_calls or not (way.argument_texts or way.no_content)]:
        try:
            text = _applied(tokenizer, stand_in, way, None, answering)
        except ValueError as error:
            faults.append(str(error))
            continue
        lost = [what for word, what in stand_in.words() if word not in text]
        if not lost:
            return way
        faults.append(f"the chat template leaves out {lost[0]}")
    raise ValueError(faults[0])


def _applied(tokenizer: Any, conversation: Conversation, way: Way, day: Any, answering: bool) -> str:
    continues = answering and conversation.continues
    try:
        with dated_templates(day):
            text: str = tokenizer.apply_chat_template(
                way.of(conversation.messages),
                tools=conversation.tools,
                tokenize=False,
                add_generation_prompt=answering and not continues,
                continue_final_message=continues,
            )
    except Exception as error:  # a template is a program of others, and fails in any way there is
        raise ValueError(f"the chat template refuses it ({error})") from error
    return text


def _plain(message: Mapping[str, Any]) -> Message:
    """Return a message without what is None, its content a text, the arguments of its tool calls mappings."""
    found: Message = _without_none(message)
    if "role" not in found:
        raise ValueError("a message has no role")
    calls = found.get("tool_calls")
    if not calls:
        found.pop("tool_calls", None)
    else:
        found["tool_calls"] = [_plain_call(call) for call in calls]
    return found | {"content": message_text(found)}


def _plain_call(call: Message) -> Message:
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise ValueError(f"the arguments of a tool call are no JSON ({error})") from error
    if not isinstance(arguments, dict) or "name" not in function:
        raise ValueError("a tool call has no name, or arguments that are no mapping")
    own = {"type": "function"} | call if "function" in call else {"type": "function"}
    return own | {"function": function | {"arguments": arguments}}


def _without_none(value: Any) -> Any:
    """Leave out entries that are None: a column of a table has every name that any of its rows has."""
    if isinstance(value, Mapping):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value


def _stand_in(message: Message, number: int) -> Message:
    changed = {name: "0" * len(str(value)) if name in _IDS else value for name, value in message.items()}
    if message["content"]:
        changed["content"] = _STAND_IN.format(number)
    if "tool_calls" in message:
        changed["tool_calls"] = [_stand_in_call(call, f"{number}x{i}") for i, call in enumerate(message["tool_calls"])]
    return changed


def _stand_in_call(call: Message, number: str) -> Message:
    arguments = (
        {f"{_STAND_IN.format(number)}a": f"{_STAND_IN.format(number)}b"} if call["function"]["arguments"] else {}
    )
    function = {"name": _STAND_IN.format(number), "arguments": arguments}
    return {name: "0" * len(str(value)) if name in _IDS else value for name, value in call.items()} | {
        "function": function
    }


def _named(tool: Message) -> Message:
    """Return the part of a schema that has the function's name."""
    function: Message = tool.get("function", tool)
    return function


def _renamed_tool(tool: Message, number: int) -> Message:
    renamed = _named(tool) | {"name": _STAND_IN.format(f"tool{number}")}
    return tool | {"function": renamed} if "function" in tool else renamed
