"""Layouts of real model families: their chat templates, shortened where that changes nothing, on tiny tokenizers."""

import json
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "What is two and two? Four. Name a day. Sunday. The sand is cold and the sun is very bright.",
    "user assistant system model. Be nice. Let me see. Good day! [INST] x [/INST] <<SYS>> y <</SYS>>",
] * 4


def byte_tokenizer(special: list[str], plain: tuple[str, ...] = (), **more: Any) -> Any:
    """Byte-level BPE, as of GPT-2, Llama 3 and Qwen; tokens in ``plain`` are added, and not special."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **more)


def piece_tokenizer(special: tuple[str, ...] = (), *, first: str = "first", legacy: bool = False, **more: Any) -> Any:
    """Pieces with a mark for the space before them, as of sentencepiece.

    Args:
        special: Tokens beside ``<unk>``, ``<s>`` and ``</s>``.
        first: Whether a text begins with a mark that nobody has written: ``first`` or ``never``.
        legacy: Begin every piece of text between two special tokens with one.
        more: Given to the tokenizer.
    """
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=first)  # no piece goes on in the next word
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    known, of_bytes = ["<unk>", "<s>", "</s>", *special], [f"<0x{i:02X}>" for i in range(256)]
    alphabet = ["▁", *map(chr, range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*known, *of_bytes], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    spelled = json.loads(core.to_str())
    spelled["added_tokens"] = [token for token in spelled["added_tokens"] if token["content"] in known]
    core = Tokenizer.from_str(json.dumps(spelled))  # pieces that stand for bytes are pieces like any other
    if legacy:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = None  # type: ignore[assignment]
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=first, split=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | more
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **names)


def begins_with(tokenizer: Any, *tokens: str) -> Any:
    """The tokenizer with special tokens before every text that it is to add them to."""
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    single = " ".join([*tokens, "$A"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_2 = (  # it writes the date
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    '{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}'
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}{{- "Today Date: " + date_string + "\\n\\n" }}'
    '{{- system_message }}{{- "<|eot_id|>" }}{%- for message in messages %}'
    "{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- elif 'tool_calls' in message %}{%- set tool_call = message.tool_calls[0].function %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{{- '{\"name\": \"' + tool_call.name + '\", ' }}"
    '{{- \'"parameters": \' }}{{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}'
    '{%- elif message.role == "tool" or message.role == "ipython" %}'
    '{{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}'
    "{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}"
    '{%- else %}{{- message.content }}{%- endif %}{{- "<|eot_id|>" }}{%- endif %}{%- endfor %}'
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_SPACED = MISTRAL.replace("message['content'] + eos_token", "' ' + message['content'] + eos_token")
MISTRAL_NEMO = (  # the system message stands in the last turn of the user's
    '{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}'
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    '{{- bos_token }}{%- for message in loop_messages %}{%- if message["role"] == "user" %}'
    "{%- if loop.last and system_message is defined %}"
    '{{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}'
    '{%- else %}{{- "[INST]" + message["content"] + "[/INST]" }}{%- endif %}'
    '{%- elif (message.tool_calls is defined and message.tool_calls is not none) %}{{- "[TOOL_CALLS][" }}'
    "{%- for tool_call in message.tool_calls %}{%- set out = tool_call.function|tojson %}{{- out[:-1] }}"
    "{%- if not tool_call.id is defined or tool_call.id|length != 9 %}"
    '{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}'
    '{{- \', "id": "\' + tool_call.id + \'"}\' }}{{- "]" + eos_token }}{%- endfor %}'
    '{%- elif message["role"] == "assistant" %}{{- message["content"] + eos_token}}'
    '{%- elif message["role"] == "tool" %}{{- \'[TOOL_RESULTS]{"content": \' + message.content|string + ", " }}'
    "{{- '\"call_id\": \"' + message.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    '{%- else %}{{- raise_exception("Only user and assistant roles are supported!") }}{%- endif %}{%- endfor %}'
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}"
    "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}"
    "}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_2_5 = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nBe nice and good.<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}"
    '{%- if (message.role == "user") or (message.role == "system" and not loop.first) or '
    '(message.role == "assistant" and not message.tool_calls) %}'
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == \"assistant\" %}{{- '<|im_start|>' + message.role }}"
    "{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}{%- for tool_call in message.tool_calls %}"
    "{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}"
    '{{- \'\\n<tool_call>\\n{"name": "\' }}{{- tool_call.name }}{{- \'", "arguments": \' }}'
    "{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == \"tool\" %}{{- '<|im_start|>user' }}{{- '\\n<tool_response>\\n' }}{{- message.content }}"
    "{{- '\\n</tool_response>' }}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN_3 = (  # a finished last turn has thoughts, empty ones if need be; a prompt does not open them
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}{%- set ns = namespace(last_query_index=messages|length - 1) %}{%- for message in messages %}"
    '{%- if message.role == "user" %}{%- set ns.last_query_index = loop.index0 %}{%- endif %}{%- endfor %}'
    "{%- for message in messages %}{%- set content = message.content if message.content is string else '' %}"
    '{%- if (message.role == "user") or (message.role == "system" and not loop.first) %}'
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == \"assistant\" %}{%- set reasoning_content = '' %}{%- if '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}"
    "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n'"
    " + content.lstrip('\\n') }}{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- elif message.role == \"tool\" %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
DEEPSEEK_R1 = (  # a prompt opens thoughts, a finished turn has none
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA_3 = (  # the system message opens the user's first turn
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- if messages[0]['content'] is string -%}"
    "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- else -%}"
    "{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}"
    "{%- set loop_messages = messages[1:] -%}"
    '{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}'
    "{%- for message in loop_messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    '{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}'
    "{%- if (message['role'] == 'assistant') -%}{%- set role = \"model\" -%}"
    "{%- else -%}{%- set role = message['role'] -%}{%- endif -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}"
    "{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
PHI_3 = (  # it drops a system message without a word
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}"
    "{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}"
)
PHI_3_5 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ASSISTANT:' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
SMOLVLM = (  # it takes a text in parts alone
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}:"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ ' ' + line['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LAST_TURN_OPEN = (  # it ends a turn where another follows, alone
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Layout:
    """A tokenizer with its template, and what is right for it.

    Attributes:
        tokenizer: As a model of the family has it.
        end: The token that a written answer ends with.
        others: Further tokens that sampling stops at.
        prompt: The text of the prompt ``Name a day.``; of a plain prompt what its tokens say.
        answer: What follows it where ``Sunday.`` is written, without the end.
        configured: End tokens of the generation config.
        system: What a prompt with the system message ``Be nice.`` is, or a part of the message that refuses it.
    """

    tokenizer: Any
    end: str
    prompt: str
    answer: str
    system: str
    others: tuple[str, ...] = ()
    configured: tuple[str, ...] = field(default=())


def _with(tokenizer: Any, template: str) -> Any:
    tokenizer.chat_template = template
    return tokenizer


def _chatml(eos: str, template: str = CHATML, plain: tuple[str, ...] = ()) -> Any:
    special = [token for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>") if token not in plain]
    return _with(byte_tokenizer(special, plain, eos_token=eos), template)


def _gemma(template: str) -> Any:
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    return _with(piece_tokenizer(special, first="never", bos_token="<bos>", eos_token="<eos>"), template)


def _phi(template: str, special: tuple[str, ...]) -> Any:
    # What follows a special token begins with a mark, and a turn's opening has taken the line break to itself.
    made = piece_tokenizer(("<|endoftext|>",), legacy=True, eos_token="<|endoftext|>")
    made.add_tokens([AddedToken(token, special=False, rstrip=True, normalized=False) for token in special])
    return _with(made, template)


def _llama_3(template: str) -> Any:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return _with(byte_tokenizer(special, bos_token=special[0], eos_token=special[1]), template)


ASKED, SAID = "Name a day.", "Sunday."
REFUSED = "model.policy.system"
_CHATML = "<|im_start|>user\nName a day.<|im_end|>\n<|im_start|>assistant\n"
_CHATML_SYSTEM = f"<|im_start|>system\nBe nice.<|im_end|>\n{_CHATML}"
_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
_OPEN = "<|start_header_id|>assistant<|end_header_id|>\n\n"


def layouts() -> dict[str, Layout]:
    """All of them, by name."""
    llama_3 = "<|begin_of_text|>" + _HEADER.format("user", ASKED) + _OPEN
    llama_3_system = "<|begin_of_text|>" + _HEADER.format("system", "Be nice.") + _HEADER.format("user", ASKED) + _OPEN
    deepseek = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    turn, think = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n", ("<think>", "</think>")
    bounds = {"bos_token": "<s>", "eos_token": "</s>"}
    phi = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    return {
        "Llama 2": Layout(
            _with(piece_tokenizer(legacy=True), LLAMA_2), "</s>", "<s>[INST] Name a day. [/INST]", " Sunday. ",
            "<s>[INST] <<SYS>>\nBe nice.\n<</SYS>>\n\nName a day. [/INST]", configured=("</s>",),
        ),
        "Llama 3, generation config of the base": Layout(
            _llama_3(LLAMA_3), "<|eot_id|>", llama_3, SAID, llama_3_system, ("<|end_of_text|>",), ("<|end_of_text|>",)
        ),
        "Mistral": Layout(
            _with(piece_tokenizer(), MISTRAL), "</s>", "<s>[INST] Name a day. [/INST]", SAID, REFUSED, (), ("</s>",)
        ),
        "Mistral, a space before the answer": Layout(
            _with(piece_tokenizer(), MISTRAL_SPACED), "</s>", "<s>[INST] Name a day. [/INST]", f" {SAID}", REFUSED
        ),
        "Mistral Nemo": Layout(
            _with(byte_tokenizer(["<s>", "</s>", "[INST]", "[/INST]"], **bounds), MISTRAL_NEMO), "</s>",
            "<s>[INST]Name a day.[/INST]", SAID, "<s>[INST]Be nice.\n\nName a day.[/INST]",
        ),
        "Zephyr": Layout(
            _with(piece_tokenizer(), ZEPHYR), "</s>", "<|user|>\nName a day.</s>\n<|assistant|>\n", SAID,
            "<|system|>\nBe nice.</s>\n<|user|>\nName a day.</s>\n<|assistant|>\n",
        ),
        "Vicuna": Layout(
            _with(piece_tokenizer(), VICUNA), "</s>", "USER: Name a day. ASSISTANT:", " Sunday.",
            "Be nice. USER: Name a day. ASSISTANT:",
        ),
        "ChatML on a base tokenizer": Layout(
            _chatml("<|endoftext|>"), "<|im_end|>", _CHATML, SAID, _CHATML_SYSTEM, ("<|endoftext|>",),
            ("<|endoftext|>",),
        ),
        "ChatML, its end added and not special": Layout(
            _chatml("<|endoftext|>", plain=("<|im_end|>",)), "<|im_end|>", _CHATML, SAID, _CHATML_SYSTEM,
            ("<|endoftext|>",),
        ),
        "ChatML, the last turn left open": Layout(
            _chatml("<|endoftext|>", LAST_TURN_OPEN), "<|im_end|>", _CHATML, SAID, _CHATML_SYSTEM, ("<|endoftext|>",)
        ),
        "Qwen2.5": Layout(
            _chatml("<|im_end|>", QWEN_2_5), "<|im_end|>",
            f"<|im_start|>system\nBe nice and good.<|im_end|>\n{_CHATML}", SAID, _CHATML_SYSTEM, ("<|endoftext|>",),
            ("<|im_end|>", "<|endoftext|>"),
        ),
        "Qwen3": Layout(
            _chatml("<|im_end|>", QWEN_3, think), "<|im_end|>", _CHATML, f"<think>\n\n</think>\n\n{SAID}",
            _CHATML_SYSTEM, ("<|endoftext|>",), ("<|im_end|>", "<|endoftext|>"),
        ),
        "DeepSeek-R1 distil": Layout(
            _with(byte_tokenizer(deepseek, think, bos_token=deepseek[0], eos_token=deepseek[1]), DEEPSEEK_R1),
            deepseek[1], f"{deepseek[0]}<｜User｜>Name a day.<｜Assistant｜><think>\n", SAID,
            f"{deepseek[0]}Be nice.<｜User｜>Name a day.<｜Assistant｜><think>\n",
        ),
        "Gemma 2": Layout(
            _gemma(GEMMA_2), "<end_of_turn>", "<bos>" + turn.format(ASKED), SAID, REFUSED, ("<eos>",), ("<eos>",)
        ),
        "Gemma 3": Layout(
            _gemma(GEMMA_3), "<end_of_turn>", "<bos>" + turn.format(ASKED), SAID,
            "<bos>" + turn.format("Be nice.\n\nName a day."), ("<eos>",), ("<eos>", "<end_of_turn>"),
        ),
        "Phi-3": Layout(
            _phi(PHI_3, phi), "<|end|>", "<s><|user|>\nName a day.<|end|>\n<|assistant|>\n", f" {SAID}", REFUSED,
            ("<|endoftext|>",), ("<|endoftext|>",),
        ),
        "Phi-3.5": Layout(
            _phi(PHI_3_5, phi), "<|end|>", "<|user|>\nName a day.<|end|>\n<|assistant|>\n", f" {SAID}",
            "<|system|>\nBe nice.<|end|>\n<|user|>\nName a day.<|end|>\n<|assistant|>\n", ("<|endoftext|>",),
        ),
        "SmolVLM": Layout(
            _with(byte_tokenizer(["<|im_start|>", "<end_of_utterance>"], eos_token="<end_of_utterance>"), SMOLVLM),
            "<end_of_utterance>", "<|im_start|>User: Name a day.<end_of_utterance>\nAssistant:", " Sunday.",
            "<|im_start|>System: Be nice.<end_of_utterance>\nUser: Name a day.<end_of_utterance>\nAssistant:",
        ),
        "GPT-2": Layout(
            byte_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>"), "<|endoftext|>",
            ASKED, SAID, "no chat template",
        ),
        "OPT": Layout(
            begins_with(byte_tokenizer(["<pad>", "</s>"], bos_token="</s>", eos_token="</s>"), "</s>"), "</s>",
            f"</s>{ASKED}", SAID, "no chat template",
        ),
        "Llama 2, the base": Layout(
            begins_with(piece_tokenizer(legacy=True), "<s>"), "</s>", f"<s> {ASKED}", SAID, "no chat template",
        ),
    }  # fmt: skip
