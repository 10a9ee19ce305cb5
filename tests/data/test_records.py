"""A row is settled once: JSON gives it back as it is, and one column says what is asked."""

import datetime
import decimal
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_align.data.records import plain, settled

USER = {"role": "user", "content": "Name a day."}
GOOD = {"role": "assistant", "content": "Sunday."}
SYSTEM = {"role": "system", "content": "Be brief."}
VALUES = {
    "a date": (datetime.date(2024, 1, 2), "2024-01-02"),
    "a date that was read as its midnight": (datetime.datetime(2024, 1, 2), "2024-01-02"),
    "a moment": (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00"),
    "a midnight somewhere": (
        datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),  # noqa: UP017
        "2024-01-02T00:00:00+00:00",
    ),
    "a time": (datetime.time(3, 4), "03:04:00"),
    "a decimal": (decimal.Decimal("1.5"), 1.5),
    "a number of numpy": (np.float64(0.5), 0.5),
    "a truth of numpy": (np.bool_(True), True),
    "an array": (np.arange(3), [0, 1, 2]),
    "a tuple": ((1, None, "a"), [1, None, "a"]),
    "bytes": (b"abc", "b'abc'"),
    "an object": (object(), "<object>"),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES.keys())
def test_a_value_is_what_its_json_gives_back_wherever_it_lies(value, expected):
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)
    deep = plain({"outer": [{"inner": value}]})
    assert deep == {"outer": [{"inner": expected}]} == json.loads(json.dumps(deep))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.dates()
        | st.datetimes(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_plain_value_is_plain_already_and_survives_json(value):
    once = plain(value)
    assert plain(once) == once == json.loads(json.dumps(once))


ASKED = {
    "a text": ({"prompt": "Name a day."}, {"prompt": "Name a day."}),
    "a number": ({"prompt": 12}, {"prompt": "12"}),
    "a date": ({"prompt": datetime.datetime(2024, 1, 2)}, {"prompt": "2024-01-02"}),
    "one message": ({"prompt": [USER]}, {"prompt": "Name a day."}),
    "a conversation": ({"prompt": [SYSTEM, USER]}, {"messages": [SYSTEM, USER]}),
    "a system message alone": ({"prompt": [SYSTEM]}, {"messages": [SYSTEM]}),
    "messages": ({"messages": [SYSTEM, USER]}, {"messages": [SYSTEM, USER]}),
    "a prompt and messages with the answer": (
        {"prompt": "Name a day.", "messages": [USER, GOOD]},
        {"prompt": "Name a day."},
    ),
    "a prompt and other messages": ({"prompt": [USER], "messages": [SYSTEM]}, {"prompt": "Name a day."}),
}


@pytest.mark.parametrize(("row", "expected"), ASKED.values(), ids=ASKED.keys())
def test_one_column_says_what_is_asked(row, expected):
    assert settled(row | {"topic": "days", "none": None}, "data.train", "row 3") == expected | {"topic": "days"}


@pytest.mark.parametrize(
    "prompt",
    [{"text": "a"}, b"a", ["a", "b"], [{"from": "human", "value": "a"}], [], [USER, "a"]],
    ids=repr,
)
def test_a_prompt_that_is_no_text_and_no_conversation_is_refused_with_its_row(prompt):
    kind = type(prompt).__name__
    with pytest.raises(ValueError, match=rf"data\.train: the prompt of row 3 is a {kind}, .*data\.columns"):
        settled({"prompt": prompt}, "data.train", "row 3")
