"""Every format gives the same rows; whatever is wrong with the data is said in one clear message."""

import json

import datasets
import pytest

from lit_align.data.sources import Source, checked, read
from tests.conftest import write_jsonl

ROWS = [{"prompt": "the cat", "number": 1}, {"prompt": "a day", "number": 2}, {"prompt": "rain", "number": 3}]


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


def test_a_chat_must_end_with_the_user():
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "good"}]
    with pytest.raises(ValueError, match=r"data\.train: row 0 ends with an assistant's message"):
        list(checked([{"messages": chat}], "data.train"))
