"""Every format gives the same rows; whatever is wrong with the data is said in one clear message."""

import json
import os

import datasets
import pytest

from lit_align.data.sources import Source, checked, read, spelled
from tests.conftest import write_jsonl

ROWS = [{"prompt": "the cat", "number": 1}, {"prompt": "a day", "number": 2}, {"prompt": "rain", "number": 3}]


def rows():
    yield from ROWS


def dataset():
    return datasets.Dataset.from_list(ROWS)


def broken():
    yield ROWS[0]
    raise KeyError("mood")


def words():
    return ["the cat"]


def write(folder, form: str) -> str:
    """The rows as a file or folder of a format; its path."""
    path = folder / f"rows.{form}"
    if form == "jsonl":
        write_jsonl(path, ROWS)
    elif form == "json":
        path.write_text(json.dumps(ROWS))
    elif form == "csv":
        path.write_text("prompt,number\n" + "".join(f"{row['prompt']},{row['number']}\n" for row in ROWS))
    elif form == "parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    elif form == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif form == "folder":
        path.mkdir()
        write_jsonl(path / "train.jsonl", ROWS)
    return str(path)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet", "saved", "folder"])
def test_every_format_gives_the_same_rows(tmp_path, form, streaming):
    assert list(read(write(tmp_path, form), streaming=streaming)) == ROWS


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_text_file_is_a_prompt_a_line(tmp_path, streaming):
    path = tmp_path / "prompts.txt"
    path.write_text("the cat\na day, and night\n")
    assert list(read(str(path), streaming=streaming)) == [{"prompt": "the cat"}, {"prompt": "a day, and night"}]


def test_a_full_source_reads_the_split_it_names(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "test.jsonl", ROWS[:1])
    assert list(read(Source(str(tmp_path), split="test"))) == ROWS[:1]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_columns_are_renamed_and_the_others_kept(tmp_path, form, streaming):
    renamed = read(write(tmp_path, form), {"prompt": "prompt", "index": "number"}, streaming)
    assert list(renamed) == [{"prompt": row["prompt"], "index": row["number"]} for row in ROWS]
    path = write_jsonl(tmp_path / "questions.jsonl", [{"question": "why", "answer": "so"}])
    assert list(read(path, {"prompt": "question"}, streaming)) == [{"prompt": "why", "answer": "so"}]


def test_chats_are_read_whole(tmp_path):
    messages = [{"role": "system", "content": "be nice"}, {"role": "user", "content": "the cat"}]
    path = write_jsonl(tmp_path / "chat.jsonl", [{"messages": messages}])
    assert list(checked(read(path), "data.train")) == [{"messages": messages}]


def test_a_shipped_pool_has_a_name():
    assert len(read("pool:topics_heldout")) >= 96


def test_an_unknown_pool_is_answered_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"pool:no_such is shipped.*pool:topics_heldout.*pool:topics_train"):
        read("pool:no_such")


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"no file nowhere\.jsonl \(looked from {tmp_path}\)"):
        read("nowhere.jsonl")


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path):
    path = tmp_path / "prompts.xlsx"
    path.write_text("?")
    with pytest.raises(ValueError, match=r"prompts\.xlsx: unknown format.*\.jsonl.*\.parquet"):
        read(str(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt", "rows.parquet"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} is empty"):
        read(str(tmp_path / name))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_missing_column_is_answered_with_those_there_are(tmp_path, form, streaming):
    with pytest.raises(ValueError, match=r"no column 'question', only \['number', 'prompt'\]"):
        read(write(tmp_path, form), {"prompt": "question"}, streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_data_without_prompts_say_how_to_name_them(tmp_path, streaming):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "why", "answer": "so"}])
    with pytest.raises(ValueError, match=r"neither a `prompt` nor a `messages` column.*'question'.*data\.columns"):
        read(path, streaming=streaming)


def test_columns_without_a_value_are_dropped():
    rows = [{"prompt": "a", "topic": None, "messages": None}, {"prompt": "b", "topic": "", "count": 0}]
    assert list(checked(rows, "data.train")) == [{"prompt": "a"}, {"prompt": "b", "topic": "", "count": 0}]


EMPTY = [
    {"prompt": ""},
    {"prompt": " \n"},
    {"prompt": None},
    {"messages": []},
    {"messages": [{"role": "user", "content": " "}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user"}]},
]


@pytest.mark.parametrize("row", EMPTY, ids=repr)
def test_an_empty_prompt_is_refused_with_its_row(row):
    with pytest.raises(ValueError, match=r"data\.heldout: the prompt of row 1 is empty"):
        list(checked([{"prompt": "a"}, row], "data.heldout"))


def test_a_chat_that_ends_with_the_assistant_is_continued_and_told_of_once(caplog):
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "good"}]
    rows = [{"messages": chat[:1]}, {"messages": chat}, {"messages": chat}]
    for _ in range(2):
        assert list(checked(rows, "my rows")) == rows
    said = [message for message in caplog.messages if "end with an assistant's message" in message]
    assert said == ["my rows: there are rows that end with an assistant's message: responses continue it"]


def test_a_chat_that_is_none_is_refused_by_its_row():
    user, call = {"role": "user", "content": "the cat"}, {"function": {"name": "look", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    fine = {"messages": [user, calling, {"role": "tool", "content": "good"}]}
    assert list(checked([fine], "data.train")) == [fine]
    for messages, why in (
        ([user, calling], "its last message is a tool call that no tool has answered"),
        ([user | {"content": [{"type": "image"}]}], "a part of type image"),
        ([{"content": "the cat"}], "a message has no role"),
        ([user, calling | {"tool_calls": [{"function": {"name": "look", "arguments": "x"}}]}, user], "no JSON"),
        ([user | {"content": [{"type": "text", "text": " "}]}], "is empty"),
    ):
        with pytest.raises(ValueError, match=rf"^data\.train: .*row 1.*{why}"):
            list(checked([fine, {"messages": messages}], "data.train"))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ["rows", "dataset"])
def test_a_function_of_the_users_gives_the_rows_that_a_file_does(name, streaming):
    assert list(read(f"function:{__name__}.{name}", streaming=streaming)) == ROWS
    renamed = read(f"function:{__name__}.{name}", {"index": "number"}, streaming)
    assert [row["index"] for row in renamed] == [1, 2, 3]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_rows_of_python_are_what_a_file_of_them_is(tmp_path, streaming):
    mixed = [*ROWS, {"prompt": "sun", "topic": "sky"}]
    filed = list(read(write_jsonl(tmp_path / "mixed.jsonl", mixed)))
    for given in (mixed, tuple(mixed), datasets.Dataset.from_list(filed)):
        assert list(read(given, streaming=streaming)) == filed
    streamed = datasets.Dataset.from_list(filed).to_iterable_dataset()
    assert list(read(streamed, streaming=streaming)) == filed


def test_rows_of_python_are_known_by_what_they_say():
    assert spelled(ROWS) == spelled([dict(reversed(row.items())) for row in ROWS]) != spelled(ROWS[1:])
    assert spelled(dataset()) == spelled(dataset()) != spelled(datasets.Dataset.from_list(ROWS[1:]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"function:{__name__}.broken", r"broken raised KeyError: 'mood'"),
        (f"function:{__name__}.words", r"words raised TypeError: a row of data is a dictionary .* not 'the cat'"),
        (f"function:{__name__}.missing", "data: cannot import"),
        (f"function:{__name__}.ROWS", "is no function"),
        ([{"prompt": "the cat"}, {"prompt": 3}], "the list of rows: a column has values of several types"),
        (
            [{"question": "why"}],
            r"the list of rows has neither a `prompt` nor .*, only \['question'\]",
        ),
    ],
)
def test_what_is_wrong_with_rows_of_the_users_code_is_said(source, message):
    with pytest.raises(ValueError, match=message):
        read(source)


BROKEN = {
    "a field too many": ("rows.csv", b"prompt\nName a day, please\n", r"line 2: 2 fields, where the header has 1: put"),
    "a field too few": (
        "rows.csv",
        b'prompt,a\n"a, b",1\nx\n',
        r"line 3: 1 fields, where the header has 2",
    ),
    "an open quote": ("rows.csv", b'prompt\n"Name a day\nx\n', r"no readable \.csv file: unexpected end of data"),
    "a line that was cut": (
        "rows.jsonl",
        b'{"prompt": "a"}\n{"prompt": "b\n',
        r"no readable \.jsonl file: JSON parse error",
    ),
    "no Parquet": ("rows.parquet", b"hello", r"no readable \.parquet file: Parquet file size is 5 bytes"),
    **{
        f"Latin 1 in {kind}": (f"rows.{kind}", text.encode("latin-1"), "is not in UTF-8")
        for kind, text in (("csv", "prompt\nUn café\n"), ("jsonl", '{"prompt": "Un café"}\n'), ("txt", "Un café\n"))
    },
    **{
        f"UTF-16 in {kind}": (f"rows.{kind}", text.encode("utf-16"), "is not in UTF-8")
        for kind, text in (("csv", "prompt\nName\n"), ("jsonl", '{"prompt": "Name"}\n'), ("txt", "Name\n"))
    },
}


@pytest.mark.parametrize(("name", "content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("name", "text"), [("rows.csv", 'prompt\n"a, b"\n'), ("rows.jsonl", '{"prompt": "a, b"}\n'), ("rows.txt", "a, b\n")]
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name, text, streaming):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert list(read(str(tmp_path / name), streaming=streaming)) == [{"prompt": "a, b"}]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_column_is_left_out_and_a_source_may_have_columns_of_its_own(tmp_path, streaming):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "messages": [], "question": "b"}])
    left_out = {"messages": None, "question": None, "nowhere": None}
    assert list(read(path, left_out, streaming)) == [{"prompt": "a"}]
    own = Source(path, columns={"prompt": None, "messages": None})
    with pytest.raises(ValueError, match="neither a `prompt` nor a `messages`"):
        read(own, {"prompt": "question"}, streaming)
    own = Source(path, columns={"asked": "question"})
    assert list(read(own, left_out, streaming)) == [{"prompt": "a", "messages": [], "asked": "b"}]


def test_a_source_is_named_by_its_columns_where_it_has_any():
    assert spelled(Source("a.csv")) == "Source(path='a.csv', split='train', name=None, revision=None)"
    assert spelled(Source("a.csv", columns={"prompt": "q"})) != spelled(Source("a.csv"))


def restless():
    os.chdir("/")
    return ROWS


def test_a_function_that_changes_the_working_directory_changes_it_for_itself_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(read("function:tests.data.test_sources.restless")) == ROWS
    assert os.getcwd() == str(tmp_path)
