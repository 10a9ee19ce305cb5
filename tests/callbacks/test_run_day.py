"""A template that writes the date writes that of the day on which the run began, whenever it goes on."""

import json
import os
import shutil
from datetime import date, datetime
from pathlib import Path

import pytest

from lit_align import Replay
from tests.conftest import CHAT, make_model, make_tokenizer
from tests.tiny_runs import build

MAY, JUNE = date(2024, 5, 6), date(2024, 6, 7)
WORDS = {MAY: "good", JUNE: "bad"}
DATED = "<|start|>{{ {'05': 'good', '06': 'bad'}[strftime_now('%m')] }}<|end|>" + CHAT


@pytest.fixture(scope="module")
def dated_model(tmp_path_factory) -> str:
    """A tiny model whose prompts begin with a word for the month."""
    folder = make_model(tmp_path_factory.mktemp("dated"))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(folder)
    return str(folder)


def go_to(monkeypatch: pytest.MonkeyPatch, day: date) -> None:
    """Let it be another day."""
    clock = type("Clock", (date,), {"today": classmethod(lambda kind: day)})
    for module in ("models.language_model", "callbacks.run_day"):
        monkeypatch.setattr(f"lit_align.{module}.date", clock)


def words_of(run, iteration: int) -> set[str]:
    """The words for the month in the prompts of an iteration."""
    rows = run.table(iteration)["prompt_ids"].to_pylist()
    return {run.module.policy.tokenizer.convert_ids_to_tokens(row[1]) for row in rows}


def day_in(folder: Path) -> str:
    return json.loads((folder / "identity.json").read_text())["day"]


def test_a_run_that_goes_on_asks_as_on_its_first_day_and_a_new_one_as_today(dated_model, pools, tmp_path, monkeypatch):
    go_to(monkeypatch, MAY)
    first = build(dated_model, pools, tmp_path).fit()
    assert day_in(first.folder) == "2024-05-06"
    go_to(monkeypatch, JUNE)
    again = build(dated_model, pools, tmp_path, run=first.folder, max_epochs=3)
    again.fit(ckpt_path=first.folder / "checkpoints" / "last.ckpt")
    new = build(dated_model, pools, tmp_path, max_epochs=1).fit()
    assert [words_of(again, iteration) for iteration in range(3)] == [{"good"}] * 3
    assert words_of(new, 0) == {"bad"}
    assert (day_in(first.folder), day_in(new.folder)) == ("2024-05-06", "2024-06-07")


@pytest.mark.slow
def test_a_run_of_an_earlier_version_began_on_the_day_that_it_wrote_what_it_is_made_of(
    dated_model, pools, tmp_path, monkeypatch
):
    go_to(monkeypatch, MAY)
    first = build(dated_model, pools, tmp_path, max_epochs=1).fit()
    identity = first.folder / "identity.json"
    made_of = json.loads(identity.read_text())
    del made_of["day"]
    identity.write_text(json.dumps(made_of))
    os.utime(identity, (datetime(2024, 5, 6, 12).timestamp(),) * 2)
    go_to(monkeypatch, JUNE)
    again = build(dated_model, pools, tmp_path, run=first.folder)
    again.fit(ckpt_path=first.folder / "checkpoints" / "last.ckpt")
    assert words_of(again, 1) == {"good"}


@pytest.mark.slow
def test_a_checkpoint_that_has_left_its_run_is_looked_at_and_gone_on_from_as_on_its_first_day(
    dated_model, pools, tmp_path, monkeypatch
):
    go_to(monkeypatch, MAY)
    first = build(dated_model, pools, tmp_path, max_epochs=1).fit()
    moved = shutil.copy(first.folder / "checkpoints" / "last.ckpt", tmp_path / "moved.ckpt")
    go_to(monkeypatch, JUNE)
    looked_at, goes_on = build(dated_model, pools, tmp_path), build(dated_model, pools, tmp_path)
    looked_at.trainer.validate(looked_at.module, looked_at.pool, ckpt_path=moved)
    prompts = looked_at.pool.prompts_of["heldout"]
    words = looked_at.module.policy.tokenizer.convert_ids_to_tokens(prompts.ids[0][prompts.mask[0]].tolist())
    assert words[1] == "good"
    goes_on.fit(ckpt_path=moved)
    assert words_of(goes_on, 1) == {"good"}
    assert day_in(goes_on.folder) == "2024-05-06"


def test_a_replay_asks_as_the_recorded_run_did(dated_model, pools, tmp_path, monkeypatch):
    go_to(monkeypatch, MAY)
    first = build(dated_model, pools, tmp_path, max_epochs=1).fit()
    go_to(monkeypatch, JUNE)
    replayed = build(dated_model, pools, tmp_path, max_epochs=1)
    replayed.pool = Replay(str(first.folder / "rollouts" / "*.parquet"), heldout=pools["heldout"], batch_size=4)
    replayed.fit()
    assert words_of(replayed, 0) == {"good"}
    assert day_in(replayed.folder) == "2024-05-06"
