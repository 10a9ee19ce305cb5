"""When the class of a setting changes, what is the class's own starts anew and what all have in common is kept."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml

import lit_align
from lit_align import AlignmentModule, Enumeration, PairData, PromptPool, RewardFunction, Sampler, Sentiment
from lit_align.class_changes import shared
from lit_align.cli import AlignmentCLI, main
from lit_align.runs.resume import differences
from tests.algorithms.cases import ALGORITHMS
from tests.command_line import write_config, write_yaml

COMMON = inspect.signature(AlignmentModule).parameters.keys()


@pytest.fixture
def config(tmp_path, tiny_model, pools):
    return write_config(tmp_path, tiny_model, pools)


@pytest.fixture
def merged(monkeypatch, capsys):
    """The settings that a command line comes to, and what it prints about classes that change."""

    class Parsed(Exception):
        pass

    def stop(self):
        text = self.parser_of(self.subcommand).dump(self.config[self.subcommand], skip_unset=False)
        raise Parsed(yaml.safe_load(text))

    monkeypatch.setattr(AlignmentCLI, "before_instantiate_classes", stop)

    def merge(*arguments):
        capsys.readouterr()
        with pytest.raises(Parsed) as parsed:
            main(["fit", *arguments])
        (found,) = parsed.value.args
        return found, [line for line in capsys.readouterr().err.splitlines() if " -> " in line]

    return merge


def overlay(folder, name, **config):
    return str(write_yaml(folder / f"{name}.yaml", config))


@pytest.mark.parametrize(
    "change",
    [
        ["--model", "SimPO"],
        ["--model.class_path=SimPO"],
        ["--model=lit_align.algorithms.simpo.SimPO"],
        ["-c", "simpo"],
    ],
    ids=["typed", "typed as a class path", "typed with its module", "in a second file"],
)
def test_an_algorithms_own_settings_start_at_its_defaults(config, merged, tmp_path, change):
    change = [overlay(tmp_path, "simpo", model={"class_path": "SimPO"}) if word == "simpo" else word for word in change]
    before, _ = merged("-c", config)
    after, (line,) = merged("-c", config, *change)
    old, new = before["model"]["init_args"], after["model"]["init_args"]
    assert (old["beta"], new["beta"], new["gamma"], new["pairing"]) == (0.2, 2.5, 1.375, "best_worst")
    assert {name: new[name] for name in COMMON} == {name: old[name] for name in COMMON}
    assert after["data"] == before["data"]
    kept, dropped = line.split("; ")
    assert kept == "model: WIND -> SimPO: kept judge, optimizer, policy, sampler"
    assert dropped == "dropped beta 0.2 (SimPO's own settings start at its defaults unless given)"


@pytest.mark.parametrize(
    "typed",
    [
        ["-c", "CONFIG", "--model", "SimPO", "--model.beta", "3"],
        ["-c", "CONFIG", "--model.beta", "3", "--model", "SimPO"],
        ["--model.init_args.beta=3", "--model.class_path=SimPO", "-c", "CONFIG"],
    ],
    ids=" ".join,
)
def test_what_is_typed_is_of_the_new_class_wherever_it_stands(config, merged, typed):
    found, _ = merged(*(config if word == "CONFIG" else word for word in typed))
    assert (found["model"]["class_path"], found["model"]["init_args"]["beta"]) == ("lit_align.SimPO", 3)


@pytest.mark.parametrize("spelt", [["-c{}"], ["-c={}"], ["--config={}"], ["--config", "{}"]], ids=" ".join)
def test_a_file_is_one_however_it_is_typed_and_so_is_the_folder_of_a_run(config, merged, tmp_path, spelt):
    def named(file):
        return [word.format(file) for word in spelt]

    second = overlay(tmp_path, "second", model={"init_args": {"beta": 7.0}}, data={"init_args": {"batch_size": 3}})
    found, _ = merged("--model.beta", "5", *named(config), *named(second))
    assert (found["model"]["init_args"]["beta"], found["data"]["init_args"]["batch_size"]) == (5, 3)


def test_what_the_new_file_gives_is_given(config, merged, tmp_path):
    second = overlay(tmp_path, "rpo", model={"class_path": "RPO", "init_args": {"eta": 0.2, "supervised": "mean"}})
    found, _ = merged("-c", config, "--model.eta", "5", "-c", second)
    assert found["model"]["init_args"]["eta"] == 5  # typed
    found, (line,) = merged("-c", config, "-c", second)
    assert (found["model"]["init_args"]["beta"], found["model"]["init_args"]["eta"]) == (0.05, 0.2)
    assert "dropped beta 0.2" in line


def test_another_spelling_of_a_class_is_no_change(config, merged):
    before, nothing = merged("-c", config)
    assert nothing == []
    after, lines = merged("-c", config, "--model", "lit_align.algorithms.wind.WIND")
    assert after["model"]["class_path"] != before["model"]["class_path"]
    assert differences(before, after) == {}
    assert lines == []


def test_each_change_of_several_is_told(config, merged, tmp_path):
    dpo = overlay(tmp_path, "dpo", model={"class_path": "DPO", "init_args": {"beta": 7.0}})
    found, lines = merged("-c", config, "-c", dpo, "--model", "MPO")
    assert "beta" not in found["model"]["init_args"]
    assert [line.split(": kept")[0] for line in lines] == ["model: WIND -> DPO", "model: DPO -> MPO"]


def test_data_of_another_class_keep_what_is_held_out_and_not_what_is_trained_on(config, merged):
    before, _ = merged("-c", config)
    after, (line,) = merged("-c", config, "--data", "PairData", "--data.train", "pairs.jsonl")
    old, new = before["data"]["init_args"], after["data"]["init_args"]
    assert new["train"] == "pairs.jsonl"
    for name in ("heldout", "batch_size", "prompts_per_iteration"):
        assert new[name] == old[name]
    assert line.startswith("data: PromptPool -> PairData: kept ")
    assert "dropped train " in line


def test_data_that_do_not_take_what_data_have_in_common_drop_it(config, merged):
    found, (line,) = merged("-c", config, "--data", "Replay", "--data.path", "somewhere")
    assert "prompts_per_iteration" not in found["data"]["init_args"]
    assert "prompts_per_iteration 8" in line.split("dropped")[1]


def test_a_judge_an_anchor_an_evaluator_and_an_optimizer_start_at_their_defaults(config, merged, tmp_path):
    settings = {
        "judge": {"class_path": "RewardFunction", "init_args": {"function": "a.b", "comparison": "bradley_terry"}},
        "anchor": {"class_path": "MovingAverage", "init_args": {"rate": 0.5}},
        "eval_judges": {"other": {"class_path": "Sentiment", "init_args": {"lexicon": "afinn", "temperature": 3.0}}},
    }
    first = overlay(tmp_path, "first", model={"init_args": settings})
    found, lines = merged(
        *("-c", config, "-c", first, "--model.judge", "Sentiment", "--model.anchor", "Extrapolated"),
        *("--model.eval_judges.other", "RewardFunction", "--model.eval_judges.other.function", "c.d"),
        *("--model.optimizer", "torch.optim.AdamW"),
    )
    found = found["model"]["init_args"]
    assert found["judge"]["init_args"] == {
        **{"lexicon": "vader", "comparison": "hard"},
        **{"temperature": 1.0, "special_tokens": "drop"},
    }
    assert found["anchor"]["init_args"]["alpha"] == 0.3
    assert found["eval_judges"]["other"]["init_args"]["temperature"] == 1.0
    assert found["optimizer"]["init_args"]["lr"] == inspect.signature(torch.optim.AdamW).parameters["lr"].default
    assert sorted(line.split(" (")[0] for line in lines) == [
        "anchor: MovingAverage -> Extrapolated: kept nothing; dropped rate 0.5",
        "judge: RewardFunction -> Sentiment: kept nothing; dropped function a.b, comparison bradley_terry",
        "judge: Sentiment -> RewardFunction: kept nothing; dropped lexicon afinn, temperature 3.0",
        "optimizer: SGD -> AdamW: kept nothing; dropped lr 0.05",
    ]


def test_a_policy_that_lacks_its_model_yet_is_kept(config, merged, tmp_path):
    policy = {"class_path": "LanguageModel", "init_args": {"lora": {"rank": 3}}}
    unnamed = yaml.safe_load((Path(config) / "config.yaml").read_text())
    unnamed["model"]["init_args"]["policy"] = policy
    first = str(write_yaml(tmp_path / "unnamed.yaml", unnamed))
    found, _ = merged("-c", first, "--model", "DPO", "--model.policy.name", "mine")
    assert found["model"]["init_args"]["policy"]["init_args"]["lora"]["init_args"]["rank"] == 3


def test_what_a_run_has_left_means_itself(config, merged, tmp_path):
    first, _ = merged("-c", config, "--model", "SPPO", "--model.offset", "partition", "--model.anchor", "MovingAverage")
    again, lines = merged("-c", overlay(tmp_path, "left", **first))
    assert again == first
    assert lines == []
    over_another, _ = merged("-c", config, "-c", overlay(tmp_path, "left", **first))
    assert over_another == first


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_the_settings_of_the_base_in_common(name):
    kind = getattr(lit_align, name)
    kept = shared(lit_align.WIND, kind)
    assert {"policy", "judge", "sampler", "optimizer", "warmup_steps", "eval_judges"} <= kept <= COMMON
    assert ("anchor" in kept) == (name not in ("AcceleratedPO", "ONPO"))  # those have an anchor of their own


def test_what_classes_share_is_of_their_common_base():
    assert {"heldout", "batch_size", "passes"} <= shared(PromptPool, PairData)
    assert "train" not in shared(PromptPool, PairData)
    assert shared(Sampler, Enumeration) == inspect.signature(Sampler).parameters.keys()
    assert shared(Sentiment, RewardFunction) == set()
    assert shared(Sampler, AlignmentModule) == shared(torch.optim.SGD, Sampler) == set()
    assert shared(torch.optim.SGD, torch.optim.AdamW) == set()
    assert shared(lit_align.adamw, torch.optim.AdamW) == set()
