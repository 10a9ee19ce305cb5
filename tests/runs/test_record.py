"""The table at the end of a run: what it shows, and how long it may be."""

import pytest

from lit_align import RunRecord
from lit_align.runs.record import iterations_table, of_all_ranks
from tests.conftest import prompts_of, write_jsonl
from tests.tiny_runs import build


def history(length, every=1):
    """Rows of a run of ``length`` iterations, evaluated every so many."""
    rows = [{"iteration": float(i), "train/loss": 1.0} for i in range(length + 1)]
    return [row | {"val/win_rate": 0.5} if i % every == 0 else row for i, row in enumerate(rows)]


def cells(table, heading):
    (column,) = (column for column in table.columns if column.header == heading)
    return list(column.cells)


@pytest.mark.parametrize(
    ("length", "every"),
    [(0, 1), (3, 1), (38, 1), (39, 1), (40, 1), (41, 1), (79, 1), (400, 1), (400, 10), (399, 10), (199, 5)],
)
def test_the_table_has_at_most_forty_rows_the_first_and_the_last_among_them(length, every):
    table = iterations_table(history(length, every), [])
    shown = [int(cell) for cell in cells(table, "it")]
    assert len(shown) <= 40
    assert shown == sorted(set(shown))
    assert (shown[0], shown[-1]) == (0, length)
    if length < 40 and every == 1:
        assert shown == list(range(length + 1))


def test_iterations_that_were_not_measured_are_left_out_but_for_the_last():
    shown = cells(iterations_table(history(7, every=3), []), "it")
    assert shown == ["0", "3", "6", "7"]


def test_a_run_without_evaluation_shows_every_iteration():
    rows = [{"iteration": float(i), "train/reward": i / 10} for i in (1, 2, 3)]
    table = iterations_table(rows, [])
    assert cells(table, "it") == ["1", "2", "3"]
    assert cells(table, "train reward") == ["0.100", "0.200", "0.300"]


def test_columns_are_those_that_the_run_has_a_value_for():
    rows = [
        {"iteration": 0.0, "val/win_rate": 0.5, "val/win_rate_low": 0.4, "val/win_rate_high": 0.6, "val/kl": 0.0},
        {
            "iteration": 1.0,
            "val/win_rate": 0.7,
            "val/win_rate_low": 0.65,
            "val/win_rate_high": 0.75,
            "val/kl_to_equilibrium": 1.25e-7,
            "train/responses": 320.0,
        },
    ]
    table = iterations_table(rows, [])
    headings = [column.header for column in table.columns]
    assert headings == ["it", "win rate", "95% interval", "KL", "KL to equilibrium", "responses"]
    assert cells(table, "95% interval") == ["0.400 - 0.600", "0.650 - 0.750"]
    assert cells(table, "KL") == ["0.00", "-"]
    assert cells(table, "KL to equilibrium") == ["-", "1.25e-07"]
    assert cells(table, "responses") == ["-", "320"]


def test_a_stage_lasts_as_long_as_on_its_slowest_rank_and_counts_the_tokens_of_all():
    ranks = [({"sample": 2.0}, {"sample": 30}), ({"sample": 3.0, "judge": 1.0}, {"sample": 60}), ({"sample": 2.5}, {})]
    assert of_all_ranks(ranks) == ({"sample": 3.0, "judge": 1.0}, {"sample": 90})


def test_seconds_are_shown_of_stages_that_take_any_where_they_are_known():
    timings = [
        {"iteration": 0.0, "evaluate_seconds": 3.2},
        {"iteration": 1.0, "sample_seconds": 12.6, "judge_seconds": 0.4, "evaluate_seconds": 2.0},
    ]
    table = iterations_table(history(1), timings)
    assert [column.header for column in table.columns] == ["it", "win rate", "sample s", "evaluate s"]
    assert cells(table, "sample s") == ["-", "13"]
    assert cells(table, "evaluate s") == ["3", "2"]


def test_measures_of_a_users_own_are_shown_and_the_win_rates_of_further_judges_are_not():
    rows = [{"iteration": 0.0, "val/kl": 0.0, "val/says_sun": 0.123456, "val/win_rate_afinn": 0.5}]
    rows += [{"iteration": 1.0, "val/kl": 0.0, "val/says_sun": float("nan"), "val/loud": 12.0}]
    table = iterations_table(rows, [])
    assert [column.header for column in table.columns] == ["it", "KL", "loud", "says_sun"]
    assert cells(table, "says_sun") == ["0.1235", "nan"]
    assert cells(table, "loud") == ["-", "12"]


def test_what_a_user_or_a_model_wrote_is_shown_as_it_is_and_ends_no_run(tmp_path, tiny_model, capsys):
    odd = ["the cat [/i] [INST] [bold", "[link=x] a day [/b]", "\\[ rain \\] :smile:"]
    pools = {
        "train": write_jsonl(tmp_path / "train.jsonl", prompts_of(8)),
        "heldout": write_jsonl(tmp_path / "heldout.jsonl", [{"prompt": prompt} for prompt in odd]),
    }
    record = RunRecord(samples=3)
    run = build(tiny_model, pools, tmp_path / "run", max_epochs=1, callbacks=[record]).fit()
    said = capsys.readouterr().out
    assert all(prompt in said for prompt in odd), said
    assert (run.folder / "model" / "model.safetensors").exists()


def test_the_ends_of_intervals_are_no_measures_of_a_users_own_and_a_measure_may_be_called_low():
    interval = {"val/kl": 0.1, "val/kl_low": 0.0, "val/kl_high": 0.2, "val/reward": 1.0, "val/reward_low": 0.5}
    rows = [{"iteration": 0.0, "val/too_low": 1.0} | interval]
    assert [column.header for column in iterations_table(rows, []).columns] == ["it", "reward", "KL", "too_low"]
