"""No column of a run's table has the opinions of two judges."""

import pytest

from lit_align import HeldOutEvaluator, RewardFunction
from lit_align.iteration.judged_columns import columns_of_others, without
from lit_align.run_folder import RunFolder

HISTORY = [
    {"iteration": 0.0, "val/win_rate": 0.5, "val/kl": 0.0},
    {"iteration": 1.0, "val/win_rate": 0.7, "val/kl": 1.0},
]


def told(name, identity=None):
    return {"judge": name} if identity is None else {"judge": name, "judge_identity": identity}


@pytest.mark.parametrize(
    ("was", "now", "another"),
    [
        (told("f", "1"), told("f", "1"), False),
        (told("f", "1"), told("f", "2"), True),
        (told("f", "1"), told("g", "1"), False),  # its model lies elsewhere
        (told("f"), told("f", "1"), False),  # an earlier version knew no more
        (told("f"), told("g", "1"), True),
        ({}, told("f", "1"), False),
    ],
)
def test_the_identity_decides_and_the_name_only_where_there_is_none(was, now, another):
    assert columns_of_others({"a": was, "gone": was}, {"a": now, "new": now}) == ({"a"} if another else set())


def test_the_table_that_is_emptied_is_kept_beside_it_and_what_no_judge_says_stays(tmp_path, caplog):
    run = RunFolder(tmp_path)
    run.metrics.write_text("as it was")
    rows = without(HISTORY, {"val/win_rate", "val/other"}, run, tells=True)
    assert rows == [{"iteration": 0.0, "val/kl": 0.0}, {"iteration": 1.0, "val/kl": 1.0}]
    assert (tmp_path / "metrics-1.csv").read_text() == "as it was"
    (line,) = caplog.messages
    assert "another judge says val/win_rate from here on: up to iteration 1 they are left empty" in line
    assert without(rows, {"val/win_rate"}, run, tells=True) is rows
    assert not (tmp_path / "metrics-2.csv").exists()


def test_one_process_alone_keeps_and_tells(tmp_path, caplog):
    (tmp_path / "metrics.csv").write_text("as it was")
    assert without(HISTORY, {"val/win_rate"}, RunFolder(tmp_path), tells=False)[1].keys() == {"iteration", "val/kl"}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert not caplog.messages


@pytest.mark.parametrize("names", [["previous"], ["low"], ["a", "a_low"], ["previous_high"]])
def test_two_judges_that_would_share_a_column_are_refused(names):
    judge = RewardFunction("tests.conftest.happiness")
    with pytest.raises(ValueError, match="is taken: its win rate would be in the column of another"):
        HeldOutEvaluator(dict.fromkeys(names, judge))
    assert len(HeldOutEvaluator({"a": judge, "b": judge}).judged(judge)) == 3 + 3 * 4
