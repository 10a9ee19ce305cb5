"""A chat endpoint as judge, against a real server: what fails is missing, what was answered is never bought twice."""

import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable

import pytest

from lit_align import JudgeError, LLMJudge
from lit_align.data.templates import Chat, encode
from tests.chat_server import KEY, Server, chat_server, longer
from tests.conftest import make_tokenizer

TEMPLATE = "{prompt}|{first}|{second}"
ROWS = [{"prompt": "the cat"}, {"prompt": "the dog"}, {"prompt": "rain"}]


@pytest.fixture
def server(monkeypatch):
    yield from chat_server(monkeypatch)


def judge_of(server: Server, **options) -> LLMJudge:
    return LLMJudge("the-judge", server.url, **({"template": TEMPLATE, "backoff": 0.001, "max_retries": 2} | options))


def compare(judge: LLMJudge, first=("aaa", "b", "c"), second=("a", "bb", "d"), rows=ROWS) -> list[float]:
    rows = rows[: len(first)]
    return judge.compare([row.get("prompt", "") for row in rows], list(first), list(second), rows)


def failing(times: int, failure) -> Callable:
    """Every question fails so many times, then gets a fair answer."""
    left: dict[str, int] = {}

    def reply(question):
        left[question] = left.get(question, times) - 1
        return failure if left[question] >= 0 else longer(question)

    return reply


def test_a_is_1_b_is_0_and_a_tie_is_one_half(server):
    assert compare(judge_of(server)) == [1.0, 0.0, 0.5]


def test_each_pair_is_asked_once_in_each_order(server):
    compare(judge_of(server))
    both = {"the cat|aaa|a", "the cat|a|aaa", "the dog|b|bb", "the dog|bb|b", "rain|c|d", "rain|d|c"}
    assert sorted(server.asked) == sorted(both)


def test_a_taste_for_the_first_place_cancels_out_unless_one_order_is_asked(server):
    server.reply = lambda question: "A"
    assert compare(judge_of(server)) == [0.5, 0.5, 0.5]
    server.asked.clear()
    assert compare(judge_of(server, both_orders=False)) == [1.0, 1.0, 1.0]
    assert sorted(server.asked) == ["rain|c|d", "the cat|aaa|a", "the dog|b|bb"]


@pytest.mark.parametrize("both_orders", [True, False])
def test_identical_responses_are_ties_and_are_not_asked_about(server, both_orders):
    assert compare(judge_of(server, both_orders=both_orders), ["a", "b"], ["a", "b"]) == [0.5, 0.5]
    assert server.asked == []


@pytest.mark.parametrize("failure", [(500, b""), (503, b"busy"), (429, b"slow down")], ids=lambda failure: failure[0])
def test_a_server_that_fails_and_recovers_is_retried(server, failure):
    server.reply = failing(2, failure)
    assert compare(judge_of(server)) == [1.0, 0.0, 0.5]
    assert len(server.asked) == 6 * 3


def test_the_wait_doubles_and_what_the_server_asks_for_comes_first(server, caplog):
    def waits() -> list[float]:
        found = [float(line.split("retried in ")[1].split()[0]) for line in caplog.messages if "retried in" in line]
        caplog.clear()
        return found

    server.reply = failing(3, (503, b""))
    options = {"both_orders": False, "max_retries": 3, "backoff": 0.01}
    with caplog.at_level(logging.INFO, "lit_align"):
        assert compare(judge_of(server, **options), ["aa"], ["a"]) == [1.0]
        assert waits() == [0.01, 0.02, 0.04]
        server.headers, server.reply = {"Retry-After": "0.07"}, failing(1, (429, b""))
        assert compare(judge_of(server, **options), ["aa"], ["a"]) == [1.0]
        assert waits() == [0.07]


def is_missing(values: list[float], row: int) -> bool:
    return math.isnan(values[row]) and not any(math.isnan(p) for i, p in enumerate(values) if i != row)


@pytest.mark.parametrize(
    "failure",
    [(500, b"broken"), (400, b"too long"), (200, b"no json"), (200, b"{}"), "A or B", "", None, "I like A", "AB"],
    ids=repr,
)
def test_what_fails_or_is_malformed_is_missing_and_never_a_tie(server, failure):
    server.reply = lambda question: failure if question == "the dog|bb|b" else longer(question)
    values = compare(judge_of(server))
    assert is_missing(values, 1)
    assert (values[0], values[2]) == (1.0, 0.5)


def test_only_what_may_succeed_later_is_retried(server):
    for failure, times in (((500, b""), 3), ((400, b""), 1), ("nonsense", 1)):
        server.asked.clear()
        server.reply = lambda question, failure=failure: failure if "dog" in question else longer(question)
        compare(judge_of(server))
        assert server.asked.count("the dog|b|bb") == times


def test_a_question_that_takes_too_long_is_retried_and_then_missing(server):
    server.reply = lambda question: 60.0 if "dog" in question else longer(question)
    values = compare(judge_of(server, timeout=1.0, max_retries=1))
    assert is_missing(values, 1)
    assert server.asked.count("the dog|b|bb") == 2


def test_a_verdict_marks_what_is_missing_as_not_compared(server):
    server.reply = lambda question: (500, b"") if "bb" in question and "aaa" in question else longer(question)
    prompts = encode(Chat(make_tokenizer()), ROWS[:2])
    verdict = judge_of(server).verdict(prompts, [["a", "bb", "aaa"], ["bb", "a", "cccc"]])
    assert verdict.compared.tolist() == [
        [[True, True, True], [True, True, False], [True, False, True]],
        [[True] * 3] * 3,
    ]
    assert verdict.wins[0].tolist() == [[0.5, 0.0, 0.0], [1.0, 0.5, 0.5], [1.0, 0.5, 0.5]]
    assert verdict.wins[1].tolist() == [[0.5, 1.0, 0.0], [0.0, 0.5, 0.0], [1.0, 1.0, 0.5]]


def test_why_the_first_answer_is_missing_is_known_until_it_is_told(server):
    server.reply = lambda question: "hm" if "dog" in question else longer(question)
    judge = judge_of(server)
    compare(judge)
    assert judge.faults.take() == "a reply that does not end in A, B or tie: 'hm'"
    assert judge.faults.take() == ""


def test_a_server_that_goes_away_leaves_the_rest_missing_without_being_asked_for_each(server):
    judge = judge_of(server, both_orders=False, concurrency=2, max_retries=1)
    assert compare(judge) == [1.0, 0.0, 0.5]
    server.asked.clear()
    server.reply = lambda question: (503, b"gone")
    rows = [{"prompt": str(number)} for number in range(40)]
    assert all(math.isnan(p) for p in compare(judge, ["a"] * 40, ["b"] * 40, rows))
    assert 4 * 2 <= len(server.asked) <= 6 * 2  # four in a row, and what was under way
    server.reply = longer
    assert compare(judge, ["aa"] * 40, ["b"] * 40, rows) == [1.0] * 40


def test_a_server_that_refuses_some_questions_is_asked_all_the_others(server):
    server.reply = lambda question: (400, b"filtered") if int(question.split("|")[0]) < 30 else longer(question)
    rows = [{"prompt": str(number)} for number in range(40)]
    values = compare(judge_of(server, both_orders=False, concurrency=2), ["aa"] * 40, ["b"] * 40, rows)
    assert [math.isnan(p) for p in values] == [True] * 30 + [False] * 10


@pytest.mark.parametrize("reply", ["A", " a\n", "**A**", "[[A]]", "A.", "Both are short.\nVerdict follows.\nA"])
def test_the_last_line_is_the_verdict(server, reply):
    server.reply = lambda question: reply
    assert compare(judge_of(server, both_orders=False), ["a"], ["b"]) == [1.0]


def test_a_judge_that_answers_nothing_at_all_is_refused(server):
    server.reply = lambda question: (500, b"no model loaded")
    with pytest.raises(JudgeError, match=r"the-judge answered none of 6 questions; the first: status 500: no model"):
        compare(judge_of(server))


def test_a_server_that_is_not_there_is_refused(server):
    judge = LLMJudge("m", "http://127.0.0.1:9", template=TEMPLATE, backoff=0.001, max_retries=1)
    with pytest.raises(
        JudgeError, match=r"answered none of 6 questions; the first: APIConnectionError: .*attempts failed"
    ):
        compare(judge)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_run_after_one_request_a_thread(server, status):
    server.reply = lambda question: (status, b"no such thing")
    with pytest.raises(JudgeError, match=rf"/v1/chat/completions refuses: status {status}"):
        compare(judge_of(server, concurrency=1))
    assert len(server.asked) <= 2


def test_the_answer_is_kept_and_never_bought_twice_even_by_another_process(server, tmp_path):
    cache = str(tmp_path / "folder" / "answers.sqlite")
    values = compare(judge_of(server, cache=cache))
    count = len(server.asked)
    assert compare(judge_of(server, cache=cache)) == values
    assert len(server.asked) == count
    compare(judge_of(server, cache=cache), ["other"], ["a"])
    assert len(server.asked) == count + 2


def test_answers_that_an_earlier_version_has_bought_are_not_asked_for(server, tmp_path):
    cache, rows = tmp_path / "answers.jsonl", []
    for question in ("the cat|aaa|a", "the cat|a|aaa", "the dog|b|bb"):
        payload = {"model": "the-judge", "messages": [{"role": "user", "content": question}], "temperature": 0.0}
        asked = json.dumps([f"{server.url}/chat/completions", payload], sort_keys=True)
        rows.append({"key": hashlib.sha256(asked.encode()).hexdigest(), "answer": longer(question).upper()})
    cache.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare(judge_of(server, cache=str(cache)), ["aaa", "b"], ["a", "bb"]) == [1.0, 0.0]
    assert server.asked == ["the dog|bb|b"]
    assert compare(judge_of(server, cache=str(cache)), ["aaa", "b"], ["a", "bb"]) == [1.0, 0.0]
    assert server.asked == ["the dog|bb|b"]


def test_a_cache_that_is_something_else_is_refused_before_anything_is_asked(server, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="notes is no SQLite file"):
        judge_of(server, cache=str(tmp_path / "notes")).check()


def test_every_device_keeps_its_answers_in_a_file_of_its_own(server, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for rank in range(2):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        compare(judge_of(server, cache=str(tmp_path / "answers.sqlite")), ["a" * (2 + rank), "b", "c"])
    assert len(list(tmp_path.iterdir())) == 2
    assert len(server.asked) == len(set(server.asked)) == 6 + 2


@pytest.mark.parametrize(
    "change", [{"temperature": 1.0}, {"temperature": None}, {"template": "{prompt}|{first}|{second} "}]
)
def test_another_question_is_another_entry(server, tmp_path, change):
    cache = str(tmp_path / "answers.sqlite")
    compare(judge_of(server, cache=cache))
    count = len(server.asked)
    compare(judge_of(server, cache=cache, **change))
    assert len(server.asked) == 2 * count


def test_another_model_is_another_entry(server, tmp_path):
    cache = str(tmp_path / "answers.sqlite")
    for model in ("one", "two"):
        compare(LLMJudge(model, server.url, template=TEMPLATE, cache=cache))
    assert len(server.asked) == 12


@pytest.mark.parametrize("failure", [(500, b""), "nonsense"])
def test_failures_are_not_kept(server, tmp_path, failure):
    cache = tmp_path / "answers.sqlite"
    server.reply = lambda question: failure if "dog" in question else longer(question)
    assert math.isnan(compare(judge_of(server, cache=str(cache)))[1])
    asked = len(server.asked)
    server.reply = longer
    assert compare(judge_of(server, cache=str(cache))) == [1.0, 0.0, 0.5]
    assert len(server.asked) == asked + 2


def test_the_same_question_is_asked_once_in_a_batch(server):
    same = [ROWS[0]] * 3
    assert compare(judge_of(server), ["aaa"] * 3, ["a"] * 3, same) == [1.0, 1.0, 1.0]
    assert sorted(server.asked) == ["the cat|aaa|a", "the cat|a|aaa"]


def test_concurrent_answers_keep_the_order_of_the_questions(server):
    rows = [{"prompt": str(i)} for i in range(12)]
    first = ["a" * (1 + i % 3) for i in range(12)]
    gate = threading.Barrier(4)

    def reply(question):
        gate.wait(timeout=60)  # passes only if four questions are under way at once
        time.sleep(0.02 * (int(question.split("|")[0]) % 3))
        return longer(question)

    server.reply = reply
    judge = judge_of(server, concurrency=4, both_orders=False)
    expected = [{1: 0.0, 2: 0.5, 3: 1.0}[len(text)] for text in first]
    assert compare(judge, first, ["zz"] * 12, rows) == expected


def test_the_key_is_in_the_header_and_nowhere_else(server, tmp_path, caplog):
    cache = tmp_path / "answers.sqlite"
    server.reply = lambda question: (400, f"bad key {KEY}".encode()) if "dog" in question else longer(question)
    with caplog.at_level(logging.DEBUG):
        judge = judge_of(server, cache=str(cache))
        compare(judge)
    path, headers, payload = server.requests[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in path + json.dumps(payload)
    assert "bad key ***" in judge.faults.reason
    server.reply = lambda question: (401, f"bad key {KEY[:8]}***".encode())
    with pytest.raises(JudgeError) as caught:
        compare(judge, ["new"], ["other"])
    held = [
        caplog.text,
        cache.read_bytes().decode("latin-1"),
        repr(judge),
        repr(vars(judge)),
        judge.faults.reason,
        str(vars(judge.endpoint)),
        str(caught.value),
    ]
    assert not [text for text in held if KEY[:8] in text]
    assert "OPENAI_API_KEY" in str(caught.value)


def test_a_missing_key_is_refused_before_anything_is_asked(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match=r"judge\.api_key_env: the environment has no OPENAI_API_KEY"):
        judge_of(server).check()
    free = judge_of(server, api_key_env=None)
    free.check()
    assert compare(free) == [1.0, 0.0, 0.5]
    assert all("Authorization" not in headers for _, headers, _ in server.requests)


def test_the_question_has_model_temperature_and_the_fields_filled_in_once(server):
    row = {"prompt": "say {second} and {x}"}
    compare(judge_of(server, both_orders=False), ["{first}{prompt}"], ["two"], [row])
    ((_, _, payload),) = server.requests
    assert payload["model"] == "the-judge"
    assert payload["temperature"] == 0.0
    assert payload["messages"] == [{"role": "user", "content": "say {second} and {x}|{first}{prompt}|two"}]
    compare(judge_of(server, both_orders=False, temperature=None), ["1"], ["2"])
    assert "temperature" not in server.requests[-1][2]


def test_the_judge_of_a_chat_reads_all_of_it(server):
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "good"}]
    chat.append({"role": "user", "content": "the dog"})
    judge_of(server, both_orders=False).compare(["the dog"], ["1"], ["2"], [{"messages": chat}])
    assert server.asked == ["user: the cat\n\nassistant: good\n\nuser: the dog|1|2"]


def test_the_default_template_has_all_it_needs(server):
    judge = LLMJudge("m", server.url, both_orders=False, max_retries=0)
    server.reply = lambda question: "A"
    assert judge.compare(["the cat"], ["FIRST"], ["SECOND"], ROWS[:1]) == [1.0]
    (question,) = server.asked
    assert question.index("the cat") < question.index("Answer A") < question.index("FIRST")
    assert question.index("FIRST") < question.index("Answer B") < question.index("SECOND")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "{prompt} {first}"}, r"judge\.template has no \{second\}"),
        ({"base_url": "file:///etc"}, r"judge\.base_url must begin with http"),
        ({"concurrency": 0}, r"judge\.concurrency must be >= 1"),
        ({"temperature": -1.0}, r"judge\.temperature must be >= 0"),
        ({"max_retries": -1}, r"judge\.max_retries must be >= 0"),
        ({"timeout": 0.0}, r"judge\.timeout must be > 0"),
        ({"base_url": "https://me:secret@host/v1"}, r"judge\.base_url must hold no user"),
        ({"base_url": "https://host/v1?key=secret"}, r"judge\.base_url must hold no user"),
        ({"api_key_env": "sk-secret"}, r"judge\.api_key_env must be the name of an environment variable"),
        ({"api_key_env": "gsk_secret"}, r"judge\.api_key_env must be the name of an environment variable"),
        ({"backoff": 0.0}, r"judge\.backoff must be > 0"),
    ],
)
def test_an_argument_without_a_meaning_is_refused(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        LLMJudge(**({"model": "m"} | options))
    assert "secret" not in str(caught.value)
