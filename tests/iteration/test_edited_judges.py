"""An edited judge is another judge, as is one with another setting: what one has said is not reported as another's."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_align import LanguageModel, Replay, RewardFunction, Sampler
from lit_align.data.rollout_store import load_rollouts, load_texts
from lit_align.judges.reward import wins_from_rewards
from lit_align.run_folder import RunFolder
from tests.conftest import happiness, make_model, prompts_of, write_jsonl
from tests.judges.edited import HAPPY, SAD, Modules
from tests.tiny_runs import Run, build, sadness

TRUE = {HAPPY: happiness, SAD: sadness}
LAW = {"group_size": 3, "max_new_tokens": 6}
OPINIONS = ("train/reward", "val/reward", "val/win_rate", "val/win_rate_low", "val/win_rate_high")


@dataclass
class User:
    """Somebody who edits the reward function ``my_mood.mood`` between two runs."""

    model: str
    pools: dict[str, str]
    modules: Modules

    def run(self, text: str, folder: Path, *, law=None, data=None, heldout=None, judge=None, **options) -> Run:
        """A run that is ready: in a run folder, or in a new one under a folder that is none."""
        self.modules.imported("my_mood", text)
        place = {"run": folder} if (folder / "rollouts").exists() else {}
        module = {"judge": RewardFunction("my_mood.mood", **(judge or {})), "sampler": Sampler(**(LAW | (law or {})))}
        pools = self.pools | ({} if heldout is None else {"heldout": heldout})
        few = {"prompts_per_iteration": 4, "batch_size": 4}
        run = build(
            self.model,
            pools,
            folder,
            wind=module,
            pool=few,
            check_memory=False,
            **place,
            **({"max_epochs": 2, "seed": 2} | options),
        )
        run.pool = data or run.pool
        return run

    def measured(self, text: str, folder: Path, command: str = "validate", **options) -> dict[str, float]:
        """What ``validate`` or ``test`` says of the last checkpoint of a run."""
        run = self.run(text, folder, **options)
        L.seed_everything(run.seed, verbose=False)
        getattr(run.trainer, command)(run.module, run.pool, ckpt_path=RunFolder(folder).last, verbose=False)
        return {name.partition("/")[2]: float(value) for name, value in run.trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Model, prompts, and the run folder of two iterations by a function that likes happy words."""
    folder = tmp_path_factory.mktemp("begun")
    model = str(make_model(folder / "model"))
    pools = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(12)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(6, offset=40)),
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        user = User(model, pools, Modules(folder / "modules", monkeypatch))
        return model, pools, user.run(HAPPY, folder / "runs").fit().folder


@pytest.fixture
def user(begun, tmp_path, monkeypatch):
    return User(*begun[:2], Modules(tmp_path / "modules", monkeypatch))


@pytest.fixture
def folder(begun, tmp_path):
    """A copy of the run, to go on with."""
    shutil.copytree(begun[2], tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.fixture
def drawn(monkeypatch):
    """A source for each call that has drawn responses."""
    calls, sample = [], LanguageModel.sample
    monkeypatch.setattr(LanguageModel, "sample", lambda self, *rest: calls.append(rest[3]) or sample(self, *rest))
    return calls


def rewards(path: Path, text: str) -> torch.Tensor:
    """What a function truly says of the responses in a file, [prompts, group]."""
    groups = [group for _, group in load_texts(path)]
    return torch.tensor([TRUE[text]([""] * len(group), group, [{}] * len(group)) for group in groups])


def true_rate(folder: Path, text: str, iteration: int, against: int = 0, comparison="hard") -> float:
    """The win rate of an iterate, from the responses on disk alone."""
    own, other = (rewards(RunFolder(folder).evaluation(i), text) for i in (iteration, against))
    return float(wins_from_rewards(own, other, comparison).mean())


def contents(folder: Path, pattern: str = "*.parquet") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "evaluation").glob(pattern)}


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_two_texts_disagree_where_it_matters(folder):
    for text, other in ((HAPPY, SAD), (SAD, HAPPY)):
        assert true_rate(folder, text, 2) != pytest.approx(true_rate(folder, other, 2))
        assert true_rate(folder, text, 2, against=1) != pytest.approx(true_rate(folder, other, 2, against=1))


def test_a_fit_that_goes_on_trains_on_and_reports_the_judge_of_now(user, folder, drawn, caplog):
    run = RunFolder(folder)
    before, files = run.metrics.read_bytes(), contents(folder)
    row = user.run(SAD, folder, max_epochs=3).fit(ckpt_path=run.last).module.history[-1]
    assert load_rollouts(run.rollouts(2)).rewards.tolist() == rewards(run.rollouts(2), SAD).tolist()
    assert row["train/reward"] == pytest.approx(float(rewards(run.rollouts(2), SAD).mean()))
    assert row["val/reward"] == pytest.approx(float(rewards(run.evaluation(3), SAD).mean()))
    assert row["val/win_rate"] == pytest.approx(true_rate(folder, SAD, 3))
    assert "val/win_rate_previous" not in row  # the other judge has compared that one
    assert drawn == ["policy", "policy"]  # to train on and to evaluate: the initial responses were there
    rows = table(run.metrics)
    for name in OPINIONS:
        assert [row[name] != "" for row in rows] == [False, False, False, True], name
    assert all(row["val/kl"] and row["val/length"] for row in rows)
    assert (folder / "metrics-1.csv").read_bytes() == before
    assert set(files.values()) <= set(contents(folder).values())  # under whatever name
    assert sum("another judge says" in message for message in caplog.messages) == 1


def test_a_run_that_was_killed_goes_on_with_the_judge_of_now(user, folder, drawn):
    run = RunFolder(folder)
    shutil.rmtree(run.checkpoints)  # it had not come so far as to write one
    done = user.run(SAD, folder, max_epochs=1).fit()
    assert load_rollouts(run.rollouts(0)).rewards.tolist() == rewards(run.rollouts(0), SAD).tolist()
    assert done.module.history[0]["val/reward"] == pytest.approx(float(rewards(run.evaluation(0), SAD).mean()))
    assert done.module.history[1]["train/reward"] == pytest.approx(float(rewards(run.rollouts(0), SAD).mean()))
    assert done.module.history[1]["val/win_rate"] == pytest.approx(true_rate(folder, SAD, 1))
    assert drawn == ["policy"]  # by an iterate that has learnt something else


def test_a_fit_that_returns_to_its_first_judge_finds_what_that_one_has_said(user, folder, drawn):
    run = RunFolder(folder)
    user.run(SAD, folder, max_epochs=3).fit(ckpt_path=run.last)
    initial = contents(folder, "heldout-0000-*rank0.parquet")
    user.run(HAPPY, folder, max_epochs=4).fit(ckpt_path=run.last)
    assert run.evaluation(0).read_bytes() in initial.values()  # moved there and back
    assert drawn == ["policy"] * 4
    assert [path.name for path in sorted(folder.glob("metrics-*.csv"))] == ["metrics-1.csv", "metrics-2.csv"]


@pytest.mark.parametrize(
    ("text", "judge"),
    [(HAPPY, {}), (SAD, {}), (HAPPY, {"comparison": "bradley_terry"})],
    ids=["the same", "edited", "another comparison"],
)
def test_measuring_again_tells_the_judge_of_now_and_leaves_what_others_have_said(user, folder, drawn, text, judge):
    before, same = contents(folder), (text, judge) == (HAPPY, {})
    found = user.measured(text, folder, judge=judge)
    assert found["win_rate"] == pytest.approx(true_rate(folder, text, 2, comparison=judge.get("comparison", "hard")))
    assert ("win_rate_previous" in found) == same
    assert not same or found["win_rate_previous"] == pytest.approx(true_rate(folder, text, 2, against=1))
    after = contents(folder)
    assert before.items() <= after.items()
    assert (after == before) == same
    assert user.measured(text, folder, judge=judge) == found
    assert contents(folder) == after  # it is found again
    assert drawn == []


def test_a_test_by_an_edited_judge_is_another_test(user, folder, drawn):
    first = user.measured(HAPPY, folder, "test")
    before, so_far = contents(folder), len(drawn)
    found = user.measured(SAD, folder, "test")
    wins = wins_from_rewards(*(rewards(RunFolder(folder).evaluation(i, test=True), SAD) for i in (2, 0)))
    assert found["win_rate"] == pytest.approx(float(wins.mean()))
    assert before.items() < contents(folder).items()
    assert user.measured(HAPPY, folder, "test") == first
    assert len(drawn) == so_far


@pytest.mark.parametrize(("command", "change"), [("validate", "sampler"), ("validate", "prompts"), ("test", "prompts")])
def test_measuring_with_another_sampler_or_other_prompts_writes_files_of_its_own(
    user, folder, tmp_path, command, change
):
    first = user.measured(HAPPY, folder, command)
    before = contents(folder)
    other = write_jsonl(tmp_path / "other.jsonl", prompts_of(5, offset=60))
    options = {"law": {"temperature": 0.7}} if change == "sampler" else {"heldout": other}
    found = user.measured(HAPPY, folder, command, **options)
    assert "win_rate_previous" not in found
    assert before.items() < contents(folder).items()
    assert user.measured(HAPPY, folder, command, **options) == found
    assert user.measured(HAPPY, folder, command) == first


def test_measuring_with_another_seed_draws_anew_and_keeps_both(user, folder, drawn):
    first, before = user.measured(HAPPY, folder), contents(folder)
    so_far = len(drawn)
    found = user.measured(HAPPY, folder, seed=7)
    assert len(drawn) > so_far
    assert before.items() < contents(folder).items()
    assert found["reward"] != first["reward"]
    so_far = len(drawn)
    assert user.measured(HAPPY, folder, seed=7) == found
    assert user.measured(HAPPY, folder) == first
    assert len(drawn) == so_far


def test_a_fit_with_another_sampler_compares_its_first_iterate_with_no_previous_one(user, folder):
    run = RunFolder(folder)
    options, before = {"law": {"max_new_tokens": 5}, "max_epochs": 4}, contents(folder)
    rows = user.run(HAPPY, folder, **options).fit(ckpt_path=run.last).module.history
    assert ["val/win_rate_previous" in row for row in rows] == [False, False, True, False, True]
    assert rows[4]["val/win_rate_previous"] == pytest.approx(true_rate(folder, HAPPY, 4, against=3))
    assert set(before.values()) <= set(contents(folder).values())


def test_a_replay_trains_on_what_is_recorded_and_evaluates_with_the_judge_of_now(user, folder, tmp_path, caplog):
    done = user.run(
        SAD, tmp_path / "again", data=Replay(str(folder), heldout=user.pools["heldout"], batch_size=4)
    ).fit()
    line = "the recorded verdicts are of RewardFunction my_mood.mood as it was before its settings or its code changed"
    assert sum(line in message for message in caplog.messages) == 1
    own = RunFolder(done.folder)
    assert load_rollouts(own.rollouts(0)).rewards.tolist() == rewards(own.rollouts(0), HAPPY).tolist()
    assert done.module.history[2]["val/win_rate"] == pytest.approx(true_rate(done.folder, SAD, 2))


def test_a_replay_that_goes_on_sees_that_what_it_replays_was_judged_again(user, folder, tmp_path):
    def replayed(place, text):
        run = user.run(text, place, data=Replay(str(folder / "rollouts/iteration-0000-*"), batch_size=4), max_epochs=1)
        return run.fit()

    again = replayed(tmp_path / "again", HAPPY)
    shutil.rmtree(RunFolder(folder).checkpoints)
    user.run(SAD, folder, max_epochs=1).fit()
    shutil.rmtree(RunFolder(again.folder).checkpoints)
    row = replayed(again.folder, SAD).module.history[-1]
    path = RunFolder(again.folder).rollouts(0)
    assert load_rollouts(path).rewards.tolist() == rewards(path, SAD).tolist()
    assert row["train/reward"] == pytest.approx(float(rewards(path, SAD).mean()))


def test_a_replay_of_two_judges_is_refused(user, folder):
    user.run(SAD, folder, max_epochs=3).fit(ckpt_path=RunFolder(folder).last)
    run = user.run(SAD, folder.parent / "again", data=Replay(str(folder), batch_size=4), max_epochs=3)
    with pytest.raises(ValueError, match=r"another judge than in other iterations .*iteration-000.*as a glob"):
        run.fit()
    one = Replay(str(folder / "rollouts" / "iteration-0002-*"), batch_size=4)
    assert user.run(SAD, folder.parent / "one", data=one, max_epochs=1).fit()
