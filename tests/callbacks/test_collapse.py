"""The collapse alarm rings beyond each limit, once for each cause, and ends the run cleanly where it is told to."""

import csv
import logging

import pytest

from lit_align import CollapseAlarm
from tests.command_line import write_config
from tests.tiny_runs import build

START = {"kl": 0.0, "length": 20.0, "distinct_2": 0.9, "truncated": 0.3}


def rung(*iterations, prefix="val/", start=START, **options) -> list[str]:
    """What the alarm says of iterations with these metrics."""
    first, *rows = [{f"{prefix}{name}": value for name, value in row.items()} for row in (start, *iterations)]
    alarm = CollapseAlarm(**options)
    return [reason for number, row in enumerate(rows, 1) for reason in alarm.look(number, [first], row)]


@pytest.mark.parametrize(
    ("metric", "within", "beyond", "words"),
    [
        ("kl", 19.9, 20.1, "KL to the reference is 20.1 nats, limit 20"),
        ("length", 39.9, 40.1, "mean length 20.0 -> 40.1 tokens, limit a factor of 2"),
        ("length", 10.1, 9.9, "mean length 20.0 -> 9.9 tokens, limit a factor of 2"),
        ("distinct_2", 0.46, 0.44, "distinct-2 0.900 -> 0.440, limit 0.5 of what it was"),
        ("truncated", 0.54, 0.56, "share of responses cut at the length limit 0.30 -> 0.56, limit a rise of 0.25"),
        ("kl", 0.0, float("nan"), "KL to the reference is nan nats"),
    ],
)
def test_it_rings_beyond_a_limit_and_not_within(metric, within, beyond, words):
    assert rung(START | {metric: within}) == []
    (reason,) = rung(START, START | {metric: beyond})
    assert reason.startswith(f"iteration 2: {words}")


def test_it_rings_once_for_each_cause():
    far, long = START | {"kl": 30.0}, START | {"kl": 40.0, "length": 60.0}
    reasons = rung(far, far, long, long)
    assert [reason[:15] for reason in reasons] == ["iteration 1: KL", "iteration 3: me"]


def test_a_limit_of_null_is_not_watched():
    bad = {"kl": 99.0, "length": 99.0, "distinct_2": 0.0, "truncated": 1.0}
    assert len(rung(bad)) == 4
    assert rung(bad, kl=None, length=None, diversity=None, truncated=None) == []


def test_without_evaluation_what_was_collected_is_watched_against_the_first_iteration():
    collected = {"kl": 0.0, "length": 10.0, "truncated": 0.0}
    (reason,) = rung(collected | {"length": 25.0}, prefix="train/", start=collected)
    assert "mean length 10.0 -> 25.0" in reason


@pytest.mark.parametrize("options", [{"kl": 0.0}, {"length": 1.0}, {"diversity": 1.0}, {"truncated": 0.0}])
def test_a_limit_without_a_meaning_is_refused(options):
    with pytest.raises(ValueError, match=rf"CollapseAlarm\.{next(iter(options))} must"):
        CollapseAlarm(**options)


@pytest.mark.parametrize("heldout", [True, False], ids=["evaluated", "collected"])
def test_a_run_that_drifts_is_stopped_with_its_checkpoint_and_goes_on_from_it(
    tiny_model, pools, tmp_path, capsys, heldout
):
    given = pools if heldout else pools | {"heldout": None}
    alarm = CollapseAlarm(kl=0.01, length=None, diversity=None, truncated=None, stop=True)
    run = build(tiny_model, given, tmp_path, max_epochs=5, callbacks=[alarm]).fit()
    ended = 1 if heldout else 2  # what is collected is one iteration behind
    assert int(run.module.iteration) == ended
    assert (run.folder / "checkpoints" / f"iteration-{ended:04d}.ckpt").exists()
    assert f"stopped by the collapse alarm: iteration {ended}: KL to the reference is" in capsys.readouterr().out
    again = build(tiny_model, given, tmp_path, max_epochs=ended + 1, run=run.folder)
    again.fit(run.folder / "checkpoints" / "last.ckpt")
    assert int(again.module.iteration) == ended + 1


@pytest.mark.slow
def test_it_warns_by_default_and_stops_where_the_command_line_says_so(tiny_model, pools, tmp_path, capsys, caplog):
    from lit_align.cli import main

    config = write_config(tmp_path, tiny_model, pools)
    arguments = ["fit", "-c", config, "--trainer.max_epochs", "3"]
    default = main(arguments)
    assert [c.stop for c in default.trainer.callbacks if isinstance(c, CollapseAlarm)] == [False]
    alarm = ["--trainer.callbacks", "CollapseAlarm", "--trainer.callbacks.kl", "0.001", "--trainer.callbacks.stop"]
    with caplog.at_level(logging.WARNING):
        stopped = main([*arguments, *alarm, "true"])
    assert "the policy may be collapsing: iteration 1: KL" in caplog.text
    assert [c.kl for c in stopped.trainer.callbacks if isinstance(c, CollapseAlarm)] == [0.001]
    said = capsys.readouterr().out
    assert "stopped by the collapse alarm: iteration 1: KL" in said
    assert "iterations (win rate" in said
    with open(f"{stopped.trainer.default_root_dir}/metrics.csv") as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["0", "1"]
