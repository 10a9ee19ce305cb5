"""A judge is all its settings and its code: two that may say different things have two identities, in any process."""

import copy
import functools
import inspect
import linecache
import operator
import os
import pickle
import re
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import InitVar, dataclass
from pathlib import Path

import pytest
import torch

from lit_align import GameJudge, Judge, LLMJudge, PairwiseFunction, RandomGame, RewardFunction, RewardModel, Sentiment
from lit_align.judges import reward_model
from lit_align.judges.identity import Description
from lit_align.judges.reward import RewardJudge
from lit_align.judges.store import StoredJudge
from tests.judges.edited import HAPPY, SAD, SAME_WORDS, Modules
from tests.judges.settings import ALL, Scale, length, scaled
from tests.kills.points import Better


class Configured(Judge):
    """A judge with one parameter, of any kind."""

    indifferent = Judge.indifferent | {"verbose"}

    def __init__(self, parameter=None, *, verbose=False, **rest):
        self.parameter = parameter

    def compare(self, prompts, first, second, records):
        return [0.5] * len(prompts)


class Derived(Configured):
    """Another class with the same arguments."""


@dataclass
class AsData(RewardJudge):
    """A judge whose arguments are fields."""

    weight: float = 1.0
    words: tuple[str, ...] = ("good",)
    timeout: float = 1.0

    def __post_init__(self):
        super().__init__("bradley_terry")

    def rewards(self, prompts, responses, records):
        return [self.weight] * len(responses)


@dataclass
class Passing(RewardJudge):
    """A judge with an argument that is no field."""

    weight: InitVar[float] = 1.0

    def __post_init__(self, weight):
        super().__init__()
        self.heavy = weight

    def rewards(self, prompts, responses, records):
        return [self.heavy] * len(responses)


class Words:
    """What takes arguments for a judge, and is none."""

    def __init__(self, words=()):
        super().__init__()
        self.words = words


class Mixed(Words, RewardJudge):
    """A judge whose arguments another class takes."""

    def rewards(self, prompts, responses, records):
        return [float(len(self.words))] * len(responses)


class Named:
    """An object with a method of the name that judges have their identity under."""

    def __init__(self, factor):
        self.factor = factor

    def identity(self):
        return self


def with_default(value):
    return defaultdict(functools.partial(float, value), {"a": 1.0})


def not_yet(value):
    def later():
        return nothing, value

    if value is later:
        nothing = None
    return later


def layer(value):
    linear = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(linear.weight, value)
    torch.nn.init.zeros_(linear.bias)
    return linear


def model_folder(path: Path, weights: bytes = b"weights") -> str:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return str(path)


FIRST, SECOND = (lambda text: len(text)), (lambda text: -len(text))  # two on one line
OTHERS = {
    "number": (1, 2),
    "text": ("a", "b"),
    "nothing": (None, 0),
    "list": ([1, 2], [2, 1]),
    "nested": ({"a": {"b": [1, {"c"}]}}, {"a": {"b": [1, {"d"}]}}),
    "tensor": (torch.tensor([1.0]), torch.tensor([2.0])),
    "network": (layer(1.0), layer(2.0)),
    "function": (length, scaled),
    "lambda": (FIRST, SECOND),
    "closure": (scaled(1), scaled(2)),
    "default": (length, functools.partial(length, weight=2.0)),
    "partial": (functools.partial(length, weight=1.0), functools.partial(length, weight=2.0)),
    "method": (Scale(1).times, Scale(2).times),
    "object": (Scale(1), Scale(2)),
    "class": (Scale, Configured),
    "builtin": (min, max),
    "builtin method": ({"a": 1}.get, {"a": 2}.get),
    "search": (re.compile("good").search, re.compile("bad").search),
    "default of a mapping": (with_default(1), with_default(2)),
    "call of a method": (operator.methodcaller("count", x="a"), operator.methodcaller("count", x="b")),
    "closure that is not filled yet": (not_yet(1), not_yet(2)),
    "object with an identity of its own": (Named(1), Named(2)),
    "number of a layer": (torch.nn.LeakyReLU(0.1), torch.nn.LeakyReLU(0.2)),
    "layer of a network": (torch.nn.Sequential(torch.nn.ReLU()), torch.nn.Sequential(torch.nn.Tanh())),
    "judge": (Sentiment(), Sentiment("afinn")),
    "judge in a list": ([Configured(1)], [Configured(2)]),
    "path": (Path("a"), Path("b")),
    "dtype": (torch.float32, torch.bfloat16),
}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_a_parameter_of_any_kind_makes_another_judge(one, other, caplog):
    assert Configured(one).identity != Configured(other).identity
    assert Configured(one).identity == Configured(one).identity == Configured(parameter=one).identity
    assert not caplog.records


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (1, 1.0),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (Scale(3), Scale(3)),
        (scaled(2), scaled(2)),
        (Path("a"), "a"),
        (torch.ones(3), torch.ones(6)[::2]),
        (with_default(1), with_default(1)),
        (torch.nn.Dropout(0.1), torch.nn.Dropout(0.1).eval()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_means_the_same_is_the_same_judge(one, same):
    assert Configured(one).identity == Configured(same).identity


def test_class_and_further_arguments_count_and_what_is_declared_indifferent_does_not():
    assert Derived(1).identity != Configured(1).identity
    assert Configured(1, extra=1).identity != Configured(1, extra=2).identity
    assert Configured(1, verbose=True).identity == Configured(1).identity
    for name in ("max_retries", "timeout", "batch_size", "cache", "device"):
        assert Configured(1, **{name: 7}).identity == Configured(1).identity


def test_patience_is_no_difference_and_every_other_setting_of_ours_is():
    happy = RewardFunction("tests.conftest.happiness")
    assert (
        RewardFunction("tests.conftest.happiness", max_retries=0, backoff=2.0, timeout=9.0).identity == happy.identity
    )
    others = [
        RewardFunction("tests.conftest.happiness", "bradley_terry"),
        RewardFunction("tests.conftest.happiness", temperature=2.0),
        RewardFunction("tests.conftest.happiness", version="2"),
        RewardFunction("tests.conftest.happiness", special_tokens="keep"),
        RewardFunction("tests.tiny_runs.sadness"),
        PairwiseFunction("tests.conftest.happiness"),
    ]
    assert len({happy.identity, *(judge.identity for judge in others)}) == 1 + len(others)
    asked = LLMJudge("model", api_key_env=None)
    patient = {"max_retries": 1, "timeout": 1.0, "backoff": 3.0, "concurrency": 1, "cache": "answers.jsonl"}
    assert LLMJudge("model", api_key_env="KEY", **patient).identity == asked.identity
    settings = [{"template": "{prompt}{first}{second}"}, {"temperature": None}, {"both_orders": False}]
    settings += [{"base_url": "http://here"}, {"model": "other"}, {"special_tokens": "keep"}]
    others = [LLMJudge(**({"model": "model", "api_key_env": None} | setting)) for setting in settings]
    assert len({asked.identity, *(judge.identity for judge in others)}) == 1 + len(others)
    games = RandomGame(), RandomGame(seed=1)
    judges = [GameJudge(game, noise) for game in games for noise in ("none", "rewards")]
    assert len({judge.identity for judge in judges}) == len(judges)
    assert GameJudge(RandomGame()).identity == judges[0].identity


def test_a_judge_that_reads_no_special_tokens_is_the_one_it_was_before_it_could():
    for judge in (RewardFunction("tests.conftest.happiness"), LLMJudge("model"), Sentiment()):
        assert "special_tokens" not in judge.settings()
    assert Sentiment(special_tokens="keep").settings()["special_tokens"] == "keep"


def test_fields_of_a_dataclass_are_arguments():
    assert AsData(2.0).identity != AsData().identity != AsData(words=("bad",)).identity
    assert AsData(timeout=3.0).identity == AsData().identity


def test_arguments_that_no_init_of_a_judge_takes_count():
    assert Passing(2.0).identity != Passing().identity == Passing(1.0).identity
    assert Mixed(["good"]).identity != Mixed().identity == Mixed(words=()).identity
    assert list(inspect.signature(Mixed).parameters) == ["words"]


def test_a_copy_is_the_same_judge():
    judge = Configured({"a": 1})
    for again in (copy.copy(judge), copy.deepcopy(judge), pickle.loads(pickle.dumps(judge))):
        assert again.identity == judge.identity


def test_what_judges_through_a_journal_is_the_judge(tmp_path):
    judge = Configured(1)
    assert StoredJudge(judge, tmp_path / "verdicts.sqlite").identity == judge.identity


def test_its_arguments_are_still_to_be_seen():
    assert list(inspect.signature(RewardFunction).parameters)[:3] == ["function", "comparison", "temperature"]
    assert list(inspect.signature(Configured).parameters) == ["parameter", "verbose", "rest"]
    with pytest.raises(TypeError, match="function"):
        RewardFunction()


def test_it_is_the_same_in_every_process():
    code = "from lit_align.judges.identity import Description; from tests.judges.settings import ALL; "
    code += "print(Description().of(ALL))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == Description().of(ALL)
    assert " at 0x" not in done.stdout


@pytest.fixture
def modules(tmp_path, monkeypatch):
    return Modules(tmp_path / "modules", monkeypatch)


@pytest.mark.parametrize("kind", [RewardFunction, PairwiseFunction])
def test_an_edited_function_is_another_judge(modules, kind):
    found = []
    for text in (HAPPY, SAD, SAME_WORDS, HAPPY):
        modules.imported("my_mood", text)
        found.append(kind("my_mood.mood").identity)
    assert len(set(found)) == 3
    assert found[0] == found[3]


@pytest.mark.parametrize("kind", [RewardFunction, PairwiseFunction])
def test_a_function_that_is_handed_over_is_the_judge_that_its_path_names(modules, kind):
    found = []
    for text in (HAPPY, SAD):
        mood = modules.imported("my_mood", text).mood
        assert kind(mood).identity == kind("my_mood.mood").identity
        assert kind(mood).name == "my_mood.mood"
        found.append(kind(mood).identity)
    assert found[0] != found[1]


def mood_of(word):
    return lambda prompts, responses, records: [float(word in text) for text in responses]


def test_a_function_without_a_path_is_known_by_its_code_and_what_it_remembers():
    happy, sad = mood_of("good"), mood_of("bad")
    assert RewardFunction(happy).identity == RewardFunction(mood_of("good")).identity != RewardFunction(sad).identity
    again = RewardFunction(lambda prompts, responses, records: [1.0] * len(responses))
    assert again.rewards(["a"], ["b"], [{}]) == [1.0]
    code = f"from {__name__} import mood_of; from lit_align import RewardFunction; "
    code += "print(RewardFunction(mood_of('good')).identity)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == RewardFunction(happy).identity


def test_a_function_that_was_imported_from_another_module_is_known_by_both(modules):
    modules.imported("my_mood", HAPPY)
    modules.imported("my_front", "from my_mood import mood\n")
    first = RewardFunction("my_front.mood").identity
    modules.imported("my_mood", SAD)
    modules.imported("my_front", "from my_mood import mood\n")
    second = RewardFunction("my_front.mood").identity
    modules.imported("my_front", "from my_mood import mood\n\n\ndef unused(): ...\n")
    assert len({first, second, RewardFunction("my_front.mood").identity}) == 3


def test_a_function_whose_answers_are_cached_is_known_by_the_module_it_is_written_in(modules):
    found = []
    for text in (HAPPY, SAD):
        modules.imported("my_mood", f"import functools\n\n\n@functools.cache\n{text}")
        modules.imported("my_front", "from my_mood import mood\n")
        found.append(RewardFunction("my_front.mood").identity)
    assert found[0] != found[1]


def test_the_code_that_runs_counts_not_an_edit_that_nobody_has_imported(modules):
    modules.imported("my_mood", HAPPY)
    before = RewardFunction("my_mood.mood").identity
    modules.imported("my_mood", HAPPY)
    built = RewardFunction("my_mood.mood")
    modules.edit("my_mood", SAD)
    assert built.identity == RewardFunction("my_mood.mood").identity == before
    modules.imported("my_mood", SAD)
    assert RewardFunction("my_mood.mood").identity != before


OWN = """\
from lit_align import RewardFunction


class Mine(RewardFunction):
    def __init__(self):
        super().__init__("my_mood.mood")
"""


def test_an_edited_class_and_what_it_hands_to_ours_are_part_of_the_judge(modules):
    modules.imported("my_mood", HAPPY)
    first = modules.imported("my_judge", OWN).Mine().identity
    assert modules.imported("my_judge", OWN).Mine().identity == first
    edited = modules.imported("my_judge", OWN.replace('mood")', 'mood", "bradley_terry")')).Mine().identity
    modules.imported("my_mood", SAD)
    other = modules.imported("my_judge", OWN).Mine().identity
    assert len({first, edited, other}) == 3
    assert Better().identity != PairwiseFunction("tests.kills.points.more_words").identity


def without_file(name: str, text: str, monkeypatch: pytest.MonkeyPatch, *, cell: bool) -> None:
    """A module of a notebook, whose cells Python can show, or of a prompt, whose lines it has forgotten."""
    module = type(sys)(name)
    place = f"<cell {abs(hash(text))}>"
    if cell:
        monkeypatch.setitem(linecache.cache, place, (len(text), None, text.splitlines(keepends=True), place))
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, place, "exec"), module.__dict__)


def test_a_function_of_a_notebook_is_known_by_its_source(monkeypatch, caplog):
    found = []
    for text in (HAPPY, SAD, f"{HAPPY}\nunused = 1\n"):
        without_file("notebook", text, monkeypatch, cell=True)
        found.append(RewardFunction("notebook.mood").identity)
    assert len(set(found)) == 2
    assert found[0] == found[2]
    without_file("notebook", OWN, monkeypatch, cell=True)
    without_file("my_mood", HAPPY, monkeypatch, cell=True)
    first = sys.modules["notebook"].Mine().identity
    without_file("notebook", OWN.replace('mood")', 'mood", "bradley_terry")'), monkeypatch, cell=True)
    assert sys.modules["notebook"].Mine().identity != first
    assert not caplog.records


SCALED = """\
import functools

from lit_align import Judge


@functools.cache
def mood(prompts, responses, records):
    return [1.0]


class Scaled(Judge):
    scale = 1.0

    def compare(self, prompts, first, second, records):
        return [self.scale] * len(prompts)
"""


def test_all_of_a_class_and_what_a_cache_stands_for_are_known_in_a_notebook(monkeypatch, caplog):
    judges = []
    for text in (SCALED, f"{SCALED}\nunused = 1\n", SCALED.replace("1.0", "2.0")):
        without_file("notebook", text, monkeypatch, cell=True)
        judges.append((RewardFunction("notebook.mood").identity, sys.modules["notebook"].Scaled().identity))
    assert judges[0] == judges[1]
    assert not {*judges[0]} & {*judges[2]}
    assert not caplog.records


def test_where_there_is_no_source_one_line_asks_for_a_version(monkeypatch, caplog):
    without_file("prompt", HAPPY, monkeypatch, cell=False)
    judge = RewardFunction("prompt.mood")
    assert judge.identity == judge.identity
    (line,) = caplog.messages
    assert line.startswith("judge prompt.mood: there is no telling mood from another")
    assert "give the judge a version" in line
    caplog.clear()
    versions = [RewardFunction("prompt.mood", version=version).identity for version in ("1", "1", "2")]
    assert versions[0] == versions[1] != versions[2]
    assert not caplog.records


def test_an_argument_with_a_life_of_its_own_asks_for_a_version(caplog):
    class Versioned(Configured):
        version = "3"

    assert Configured(threading.Lock()).identity == Configured(threading.Lock()).identity
    assert "there is no telling a _thread.lock from another" in caplog.text
    caplog.clear()
    first = Versioned(threading.Lock()).identity
    Versioned.version = "4"
    assert Versioned(threading.Lock()).identity != first
    assert not caplog.records


def test_a_model_is_known_by_its_files_wherever_they_lie(tmp_path):
    first, other = model_folder(tmp_path / "a"), model_folder(tmp_path / "b", b"other weights")
    moved = str(Path(model_folder(tmp_path / "c")).rename(tmp_path / "moved"))
    for kind in (RewardModel, Configured):
        assert kind(first).identity == kind(moved).identity != kind(other).identity
    assert RewardModel(first, batch_size=3).identity == RewardModel(first).identity
    assert RewardModel(first, dtype="bfloat16").identity != RewardModel(first).identity


def test_the_files_of_a_model_are_looked_at_once(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(reward_model, "model_digest", lambda name: looked.append(name) or "digest")
    judge = RewardModel(model_folder(tmp_path / "a"))
    looked.clear()
    for _ in range(3):
        assert judge.identity
    assert len(looked) == 1
