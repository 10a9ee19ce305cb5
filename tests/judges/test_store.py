"""What is on disk is not asked for anew, to the last bit, whoever wrote it and whatever has ended them."""

import json
import math
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from lit_align import Judge, JudgeError
from lit_align.judges.reward import RewardJudge
from lit_align.judges.store import Store, StoredJudge, columns_beside
from lit_align.utils.digests import text_digest
from tests.conftest import prompts_of

PROMPTS = 7


class Remembers(Judge):
    """Has irrational probabilities, misses one in five, and fails when told to."""

    prompts_at_once = 3
    indifferent = Judge.indifferent | {"fails_at"}

    def __init__(self, fails_at: int = -1) -> None:
        self.asked, self.fails_at = [], fails_at

    def compare(self, prompts, first, second, records):
        if len(self.asked) == self.fails_at:
            raise JudgeError("no more")
        self.asked.append(list(zip(prompts, first, second, strict=True)))
        return [
            math.nan if (len(a) * len(b)) % 5 == 0 else math.sqrt(len(a) / (len(a) + len(b)))
            for a, b in zip(first, second, strict=True)
        ]


class Lengths(RewardJudge):
    """A third of the length, which no decimal number is."""

    prompts_at_once = 2

    def __init__(self, comparison="hard", temperature=1.0) -> None:
        super().__init__(comparison, temperature)
        self.asked = []

    def rewards(self, prompts, responses, records):
        self.asked.append(responses)
        return [len(response) / 3 for response in responses]


@pytest.fixture
def prompts(tiny_model):
    from lit_align import LanguageModel

    return LanguageModel(tiny_model).encode(prompts_of(PROMPTS))


TEXTS = [["a" * (i + 1), "b" * (3 * i % 5 + 1), f"c{i}"] for i in range(PROMPTS)]


@pytest.mark.parametrize("make", [Remembers, Lengths])
def test_judging_in_blocks_is_judging(prompts, tmp_path, make):
    expected = make().verdict(prompts, TEXTS)
    told, judge = [], make()
    found = StoredJudge(judge, tmp_path / "verdicts.sqlite").verdict(prompts, TEXTS, told.append)
    again = StoredJudge(judge, tmp_path / "verdicts.sqlite").verdict(prompts, TEXTS, told.append)
    assert len(judge.asked) == math.ceil(PROMPTS / judge.prompts_at_once)  # the second time nothing is asked
    assert sum(told) == 2 * PROMPTS
    for verdict in (found, again):
        assert torch.equal(verdict.wins, expected.wins)
        assert torch.equal(verdict.compared, expected.compared)
        assert (verdict.rewards is None) == (expected.rewards is None)
        assert expected.rewards is None or torch.equal(verdict.rewards, expected.rewards)
        assert verdict.wins.dtype == expected.wins.dtype


def test_what_was_judged_before_a_failure_is_kept(prompts, tmp_path):
    with pytest.raises(JudgeError):
        StoredJudge(Remembers(fails_at=2), tmp_path / "verdicts.sqlite").verdict(prompts, TEXTS)
    judge = Remembers()
    found = StoredJudge(judge, tmp_path / "verdicts.sqlite").verdict(prompts, TEXTS)
    assert len(judge.asked) == 1
    assert torch.equal(found.wins, Remembers().verdict(prompts, TEXTS).wins)


def test_comparisons_of_an_evaluation_are_kept_too(prompts, tmp_path):
    first, second = ([texts[i] for texts in TEXTS] for i in (0, 1))
    expected = Remembers().beats(prompts, first, second)
    assert expected.isnan().any()
    judge = Remembers()
    for _ in range(2):
        found = StoredJudge(judge, tmp_path / "verdicts.sqlite").beats(prompts, first, second)
        assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    assert len(judge.asked) == 3
    StoredJudge(judge, tmp_path / "verdicts.sqlite").beats(prompts, second, first)
    assert len(judge.asked) == 6  # another question


def test_rewards_that_are_known_are_neither_asked_for_nor_written(prompts, tmp_path):
    judge = Lengths()
    known = torch.arange(float(PROMPTS)), torch.full((PROMPTS,), 3.0)
    wins = StoredJudge(judge, tmp_path / "verdicts.sqlite").beats(prompts, ["x"] * PROMPTS, ["y"] * PROMPTS, *known)
    assert wins.tolist() == [0, 0, 0, 0.5, 1, 1, 1]
    assert not judge.asked
    assert not (tmp_path / "verdicts.sqlite").exists()


def test_groups_and_pairs_of_the_same_texts_are_two_questions(prompts, tmp_path):
    two, square = prompts.select([0, 1]), [["a", "bbb"], ["cc", "dddd"]]
    judge = StoredJudge(Remembers(), tmp_path / "verdicts.sqlite")
    assert torch.equal(judge.verdict(two, square).wins, Remembers().verdict(two, square).wins)
    assert torch.equal(judge.beats(two, *square), Remembers().beats(two, *square))


def test_verdicts_are_of_the_rows_that_the_judge_has_seen(prompts, tmp_path):
    for number, asked in ((0, 3), (1, 3), (1, 0)):
        judge, rows = Remembers(), [record | {"answer": number} for record in prompts.records]
        StoredJudge(judge, tmp_path / "verdicts.sqlite").verdict(replace(prompts, records=rows), TEXTS)
        assert len(judge.asked) == asked


class Another(Remembers):
    """Another class."""


@pytest.mark.parametrize("other", [Another, lambda: Lengths("bradley_terry"), lambda: Lengths(temperature=2.0)])
def test_another_judge_has_verdicts_of_its_own_though_it_has_the_name(prompts, tmp_path, other):
    first, judge = (Remembers() if other is Another else Lengths()), other()
    assert (first.name == judge.name) == (other is not Another)
    StoredJudge(first, tmp_path / "verdicts.sqlite").verdict(prompts, TEXTS)
    StoredJudge(judge, tmp_path / "verdicts.sqlite").verdict(prompts, TEXTS)
    assert len(judge.asked) == len(first.asked) > 0


def test_verdicts_of_an_earlier_version_are_found_by_name_and_that_is_said_once(prompts, tmp_path, caplog):
    rows = range(PROMPTS)
    first, second = ([TEXTS[i][j] for i in rows] for j in (0, 1))
    expected, lines = Remembers().beats(prompts, first, second), []
    for block in (rows[:3], rows[3:6], rows[6:]):
        pair = [[texts[i] for i in block] for texts in (first, second)]
        key = text_digest("beats", "Remembers", "Remembers", repr((prompts.record_id[list(block)].tolist(), pair)))
        line = json.dumps([key, ["float32", expected[block].tolist()]])
        lines.append(f"\n{zlib.crc32(line.encode()):08x} {line}\n")
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "verdicts.jsonl").write_text("".join(lines))
    judge = Remembers()
    for _ in range(2):
        found = StoredJudge(judge, folder / "verdicts.sqlite").beats(prompts, first, second)
        assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    assert not judge.asked
    (line,) = caplog.messages
    assert line.startswith(
        f"{tmp_path / 'run'}: verdicts of an earlier version name their judge alone (Remembers Remembers)"
    )


OLD = {"prompt": "a", "when": datetime(2026, 1, 1), "price": Decimal("1.0"), "picture": b"1", "known": {"x": 1}}
CORRECTED = {"when": datetime(2026, 1, 2), "price": Decimal("1.5"), "picture": b"2", "known": {"x": 2}, "more": None}


@pytest.mark.parametrize("name", CORRECTED)
def test_a_row_that_is_corrected_in_any_column_beside_the_prompt_is_another(name):
    assert columns_beside([OLD | {name: CORRECTED[name]}]) != columns_beside([OLD])
    assert columns_beside([OLD | {"prompt": "b"}]) == columns_beside([OLD])


VALUES = {"a": [1.5, None], "b": "☀", "c": {"x": 0.1, "y": math.inf}}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "a folder" / "50% of [it]?.sqlite"


@pytest.fixture
def kept(path) -> Path:
    """A file that has values."""
    for key, value in VALUES.items():
        Store(path).put(key, value)
    return path


def known(path: Path, keys="abc", rank: int = 0) -> dict:
    return Store(path, rank).known(list(keys))


def test_a_value_is_found_under_its_key_until_another_takes_its_place(kept):
    assert known(kept, "abcd") == VALUES
    assert known(kept, "bb") == {"b": "☀"}
    Store(kept).put("b", 2)
    assert known(kept) == VALUES | {"b": 2}


def test_what_is_removed_leaves_nothing(kept):
    kept.with_suffix(".jsonl").touch()
    Store(kept).remove()
    assert not list(kept.parent.iterdir())
    assert known(kept) == {}


def test_looking_makes_nothing_and_opens_nothing_for_writing(path, monkeypatch):
    assert known(path) == {}
    assert not path.parent.exists()
    Store(path).put("a", 1)
    opened, connect = [], sqlite3.connect

    def watched(address, **options):
        opened.append(address)
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", watched)
    assert known(path) == {"a": 1}
    assert opened
    assert all(address.endswith("?mode=ro") for address in opened)


def test_the_file_has_a_rollback_journal_which_any_file_system_can_keep(kept):
    with closing(sqlite3.connect(kept)) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


_HALF_A_WRITE = """
import os, signal, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA cache_size = 1")  # pages go to the file before the end of the write
file.execute("BEGIN IMMEDIATE")
file.execute("CREATE TABLE half (number)")
file.executemany("INSERT INTO half VALUES (?)", [(number,) for number in range(20000)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("rank", [0, 1], ids=["who wrote", "another"])
def test_a_process_killed_in_the_middle_of_a_write_leaves_all_that_was_kept_before(kept, rank):
    killed = subprocess.run([sys.executable, "-c", _HALF_A_WRITE, str(kept)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert kept.with_name(f"{kept.name}-journal").exists()
    assert known(kept, rank=rank) == VALUES
    Store(kept, rank).put("d", 4)
    assert known(kept, "abcd", rank) == VALUES | {"d": 4}


def test_one_killed_before_its_first_value_leaves_nothing_in_the_way(path):
    path.parent.mkdir()
    path.touch()
    assert known(path) == {}
    Store(path).put("a", 1)
    assert known(path) == {"a": 1}


def put_many(path: Path, own: int) -> None:
    for number in range(30):
        Store(path).put(f"{own} {number}", [own] * number)


def test_processes_and_threads_that_share_a_file_neither_tear_nor_lose_a_value(path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=put_many, args=(path, own)) for own in (0, 1)]
    writers += [threading.Thread(target=put_many, args=(path, own)) for own in (2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    expected = {f"{own} {number}": [own] * number for own in range(4) for number in range(30)}
    assert Store(path).known(list(expected)) == expected


def test_who_comes_while_another_writes_waits(kept):
    held, events = threading.Event(), []

    def hold():
        with closing(sqlite3.connect(kept, isolation_level=None)) as file:
            file.execute("BEGIN EXCLUSIVE")
            held.set()
            time.sleep(0.3)
            events.append("released")
            file.execute("COMMIT")

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    Store(kept).put("d", 4)
    events.append("kept")
    holder.join()
    assert events == ["released", "kept"]
    assert known(kept, "abcd") == VALUES | {"d": 4}


def test_each_rank_writes_a_file_of_its_own_and_knows_what_the_others_have_kept(kept):
    first = kept.read_bytes()
    assert known(kept, rank=2) == VALUES
    Store(kept, rank=2).put("d", 4)
    Store(kept, rank=11).put("e", 5)
    assert len(list(kept.parent.iterdir())) == 3
    assert kept.read_bytes() == first
    for rank in (0, 1, 2, 11):
        assert known(kept, "abcde", rank) == VALUES | {"d": 4, "e": 5}
    Store(kept, rank=2).put("e", 6)
    assert [known(kept, "e", rank)["e"] for rank in (2, 11)] == [6, 5]  # its own first


def test_a_damaged_value_is_named_and_not_there_and_harms_no_other(kept, caplog):
    whole = kept.read_bytes()
    assert whole.count(b"1.5") == 1
    kept.write_bytes(whole.replace(b"1.5", b"1.6"))
    assert known(kept) == {key: VALUES[key] for key in "bc"}
    assert f"{kept} is damaged" in caplog.text
    Store(kept).put("a", 3)
    assert known(kept) == VALUES | {"a": 3}


@pytest.mark.parametrize("act", [known, lambda path: Store(path).put("a", 1) or {}], ids=["known", "put"])
@pytest.mark.parametrize("damage", [lambda whole: b"\0" * len(whole), lambda whole: whole[:4096]], ids=["zeros", "cut"])
def test_a_damaged_file_is_named_and_put_aside_and_the_work_goes_on(kept, caplog, damage, act):
    damaged = damage(kept.read_bytes())
    kept.write_bytes(damaged)
    assert act(kept) == {}
    assert f"{kept} is damaged" in caplog.text
    assert kept.with_name(f"{kept.name}.damaged").read_bytes() == damaged
    Store(kept).put("b", 2)
    assert known(kept)["b"] == 2


def test_whatever_of_a_file_is_lost_what_is_found_was_put(kept):
    whole = kept.read_bytes()
    for size in range(0, len(whole), 512):
        kept.write_bytes(whole[:size])
        assert known(kept).items() <= VALUES.items()
        kept.write_bytes(whole[:size] + b"\0" * (len(whole) - size))
        assert known(kept).items() <= VALUES.items()


def test_a_place_that_cannot_be_written_to_is_no_damage(path):
    path.mkdir(parents=True)
    for act in (known, lambda path: Store(path).put("a", 1)):
        with pytest.raises(sqlite3.OperationalError):
            act(path)
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_something_else_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    Store(path).check()
    path.write_text('{"key": "a", "answer": "A"}')
    with pytest.raises(ValueError, match=r"notes\.txt is no SQLite file; JSON lines need a name that ends in \.jsonl"):
        Store(path).check()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    Store(tmp_path / "kept").put("a", 1)
    Store(tmp_path / "kept").check()


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.sqlite"])
@pytest.mark.parametrize("rank", [0, 1])
def test_json_lines_of_an_earlier_version_are_imported_under_either_name_and_stay(tmp_path, caplog, name, rank):
    lines = tmp_path / "answers.jsonl"
    rows = [json.dumps({"key": key, "answer": "A"}) for key in "abc"]
    lines.write_text("\n".join([rows[0], '{"key": "torn', rows[1], "[]", rows[2][:-3]]))
    before = lines.read_bytes()
    assert known(tmp_path / name, rank=rank) == {"a": "A", "b": "A"}
    assert "3 damaged lines" in caplog.text
    Store(tmp_path / name, rank).put("a", "B")
    assert known(tmp_path / name, rank=rank) == {"a": "B", "b": "A"}
    assert lines.read_bytes() == before
    lines.unlink()
    assert known(tmp_path / name, rank=rank) == {"a": "B", "b": "A"}


def test_json_lines_are_imported_by_who_only_keeps_a_value_too(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"key": "a", "answer": "A"}\n')
    Store(tmp_path / "answers.jsonl").put("b", "B")
    assert known(tmp_path / "answers.sqlite") == {"a": "A", "b": "B"}


def test_an_import_that_was_killed_is_done_when_the_file_is_opened_next(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"key": "a", "answer": "A"}\n')
    (tmp_path / "answers.sqlite").touch()
    assert known(tmp_path / "answers.sqlite") == {"a": "A"}
