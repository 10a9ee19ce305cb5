"""Labelled pairs go the way of sampled ones: the same tokens, wins and losses, without sampler or judge."""

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from lit_align import DPO, INPO, ONPO, WIND, AlignmentModule, Initial, RewardFunction, RunRecord, Sampler
from lit_align.cli import main
from lit_align.data.pair_data import PairData, as_pair, pair_id
from lit_align.data.prompt_pool import PromptPool
from lit_align.data.rollout_store import load_rollouts
from lit_align.games.game import RandomGame
from lit_align.games.policies import TabularPolicy
from lit_align.iteration.requirements import check_data
from lit_align.models.language_model import LanguageModel
from lit_align.runs.trainer import Trainer
from lit_align.types import prompt_text
from tests.command_line import refusal, write_yaml
from tests.conftest import prompts_of, write_jsonl
from tests.rounding import AGAIN, TRAINED, assert_same_but_rounding, steps_of

ANSWERS = [
    ("good great day", "bad awful"),
    ("nice sun", "poor rain rain"),
    ("happy cat", "sad"),
    ("great", "a sad day"),
]


def rows_of(count: int = 8, **more: Any) -> list[dict]:
    return [
        {"prompt": row["prompt"], "chosen": ANSWERS[i % 4][0], "rejected": ANSWERS[i % 4][1]} | more
        for i, row in enumerate(prompts_of(count))
    ]


def swapped(rows: list[dict], **more: Any) -> list[dict]:
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} | more for row in rows]


class Fit:
    """A run of DPO with SGD over pairs in a file."""

    def __init__(
        self,
        model: str,
        train: str,
        folder: Path,
        *,
        dpo: dict | None = None,
        data: dict | None = None,
        epochs: int = 2,
    ) -> None:
        L.seed_everything(0, verbose=False)
        options: dict[str, Any] = {"beta": 0.5, "anchor": Initial(), "sampler": Sampler(max_new_tokens=8)}
        options |= {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05)} | (dpo or {})
        self.module = DPO(LanguageModel(model), **options)
        self.data = PairData(train, **({"batch_size": 4} | (data or {})))
        self.trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            enable_progress_bar=False,
            logger=False,
            callbacks=[RunRecord(samples=0, export=False)],
        )

    def fit(self) -> "Fit":
        self.trainer.fit(self.module, self.data)
        return self

    @property
    def losses(self) -> list[float]:
        return [row["train/loss"] for row in self.module.history if "train/loss" in row]

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.module.policy.model.parameters()])

    def stored(self, iteration: int = 0):
        return load_rollouts(
            Path(self.trainer.default_root_dir) / "rollouts" / f"iteration-{iteration:04d}-rank0.parquet"
        )


@pytest.fixture
def fit(tiny_model, tmp_path):
    made = []

    def run(rows: list[dict] | str, **options) -> Fit:
        made.append(rows)
        train = rows if isinstance(rows, str) else write_jsonl(tmp_path / f"pairs{len(made)}.jsonl", rows)
        return Fit(tiny_model, train, tmp_path / "runs", **options).fit()

    return run


def log_ratios(run: Fit) -> torch.Tensor:
    rollouts = run.stored()
    with torch.no_grad():
        policy, reference = (run.module.policy.logps(rollouts.responses, source) for source in ("policy", "reference"))
    return (policy - reference).sum(-1)


def test_dpo_raises_the_chosen_over_the_rejected(fit):
    run = fit(rows_of(), epochs=4)
    ratios = log_ratios(run)
    assert (ratios[:, 0] > ratios[:, 1] + 0.5).all()
    assert run.losses == sorted(run.losses, reverse=True)


def test_the_first_loss_is_that_of_a_coin(fit):
    run = fit(rows_of(4), epochs=1, dpo={"pairing": "all"}, data={"eps": 0.1})
    assert run.losses == pytest.approx([math.log(2)], abs=1e-6)


def test_a_preference_of_0_is_the_swapped_pair(fit):
    options = {"dpo": {"pairing": "all"}}
    backward = fit(swapped(rows_of(), preference=0.0), **options)
    # Another pair has another id, and nothing but the order of minibatches may hang on it: the order is the rows' own.
    assert_same_but_rounding(backward.weights, fit(rows_of(), **options).weights, TRAINED)


def test_a_preference_of_one_half_teaches_nothing(fit):
    run = fit(rows_of(4, preference=0.5), epochs=1, dpo={"pairing": "all"})
    assert log_ratios(run).abs().max() < steps_of(torch.float32, size=32, count=AGAIN)


def test_wins_are_the_preference_or_else_one_less_eps(fit):
    rows = rows_of(4)
    rows[1]["preference"], rows[2]["preference"] = 0.75, None
    rollouts = fit(rows, epochs=1, dpo={"pairing": "all"}, data={"eps": 0.25 / 2}).stored()
    for record, wins in zip(rollouts.responses.prompts.records, rollouts.wins, strict=True):
        p = 0.75 if record["prompt"] == rows[1]["prompt"] else 0.875
        assert wins.tolist() == [[0.5, p], [1 - p, 0.5]]
    assert rollouts.compared.all()
    assert rollouts.responses.source == ("data", "data")
    assert rollouts.reference_token_logps is None  # DPO reads the anchor alone
    assert rollouts.anchor_token_logps is not None


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def as_conversations(rows: list[dict], *, prompt: bool) -> list[dict]:
    made = []
    for row in rows:
        sides = {side: [user(row["prompt"]), assistant(row[side])] for side in ("chosen", "rejected")}
        made.append(sides | ({"prompt": row["prompt"]} if prompt else {}))
    return made


def test_jsonl_parquet_and_every_layout_of_a_row_give_the_same_run(fit, tmp_path):
    rows = rows_of()
    expected = fit(rows)
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    messages = [
        {"messages": [{"role": "user", "content": r["prompt"]}]} | {k: r[k] for k in r if k != "prompt"} for r in rows
    ]
    others = {"question": "prompt", "better": "chosen", "worse": "rejected"}
    renamed = [{theirs: row[ours] for theirs, ours in others.items()} for row in rows]
    columns = {"data": {"columns": {ours: theirs for theirs, ours in others.items()}}}
    runs = [fit(str(path)), fit(as_conversations(rows, prompt=True)), fit(as_conversations(rows, prompt=False))]
    runs += [fit(messages), fit(renamed, **columns)]
    for run in runs:
        assert run.losses == expected.losses
        assert torch.equal(run.weights, expected.weights)


def encoded(model: str, rows: list[dict], **options):
    data = PairData(**options)
    policy = LanguageModel(model)
    data.connect(policy.encode, policy)
    records = [as_pair(row, f"row {number}") for number, row in enumerate(rows)]
    return data.pairs(policy.encode(records)).responses


def test_prompt_and_response_are_the_tokens_of_the_whole_conversation(tiny_model, tmp_path):
    rows = rows_of()
    responses = encoded(tiny_model, rows)
    tokenizer = LanguageModel(tiny_model).tokenizer
    for i, row in enumerate(rows):
        prompt = responses.prompts.ids[i][responses.prompts.mask[i]].tolist()
        for slot, side in enumerate(("chosen", "rejected")):
            messages = [user(row["prompt"]), assistant(row[side])]
            whole = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = responses.ids[i, slot][responses.mask[i, slot]].tolist()
            assert prompt + ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert not responses.truncated.any()


def test_without_a_template_a_response_ends_with_the_end_of_sequence(tiny_base_model, tmp_path):
    row = {"prompt": "the cat", "chosen": "is good", "rejected": "bad"}
    responses = encoded(tiny_base_model, [row])
    tokens = LanguageModel(tiny_base_model).tokenizer.convert_ids_to_tokens
    assert tokens(responses.ids[0, 0].tolist()) == ["is", "good", "<|end|>"]
    assert tokens(responses.ids[0, 1][responses.mask[0, 1]].tolist()) == ["bad", "<|end|>"]


def test_a_long_response_is_cut_without_an_end_and_marked(tiny_model, tmp_path):
    row = {"prompt": "the cat", "chosen": "a very nice day", "rejected": "a bad day"}
    responses = encoded(tiny_model, [row], max_response_tokens=4)
    tokens = LanguageModel(tiny_model).tokenizer.convert_ids_to_tokens
    assert [tokens(ids) for ids in responses.ids[0].tolist()] == [row["chosen"].split(), ["a", "bad", "day", "<|end|>"]]
    assert responses.truncated.tolist() == [[True, False]]
    assert responses.lengths.tolist() == [[4, 4]]


def test_an_iteration_is_an_epoch_in_whole_steps_unless_it_is_so_many_pairs(fit):
    whole = fit(rows_of(10), epochs=2)
    assert whole.data.prompts_per_iteration == 8
    assert whole.trainer.global_step == 4
    dealt = [r["prompt"] for t in (0, 1) for r in whole.stored(t).responses.prompts.records]
    assert set(dealt[:10]) == {row["prompt"] for row in rows_of(10)}  # the rest of the first pass opens the second
    assert fit(rows_of(10), data={"prompts_per_iteration": 4}, epochs=1).trainer.global_step == 1


def test_a_prompt_may_have_several_pairs(fit):
    rows = [row | {"prompt": "the cat"} for row in rows_of(4)]
    ids = fit(rows, epochs=1).stored().responses.prompts.record_id
    assert sorted(ids.tolist()) == sorted(pair_id(row) for row in rows)
    assert len(set(ids.tolist())) == 4


def test_a_stream_trains_too(fit):
    run = fit(rows_of(), data={"streaming": True, "prompts_per_iteration": 4})
    assert run.trainer.global_step == 2


def heldout(tmp_path) -> dict:
    return {"heldout": write_jsonl(tmp_path / "heldout.jsonl", prompts_of(6, offset=40))}


def test_held_out_prompts_are_compared_where_there_is_a_judge(fit, tmp_path):
    judge = RewardFunction("tests.conftest.happiness")
    run = fit(rows_of(), dpo={"judge": judge}, data=heldout(tmp_path))
    assert run.module.history[0]["val/win_rate"] == 0.5
    assert "val/win_rate" in run.module.history[-1]


def test_without_a_judge_they_are_measured_all_the_same(fit, tmp_path):
    run = fit(rows_of(), data=heldout(tmp_path))
    last = run.module.history[-1]
    assert {"val/kl", "val/length", "val/distinct_2"} <= last.keys()
    assert not [name for name in last if "win_rate" in name or "reward" in name]


def test_what_was_not_drawn_is_not_counted_and_has_no_sampling_gap(fit):
    names = {name for row in fit(rows_of()).module.history for name in row}
    assert {"train/length", "train/truncated"} <= names
    assert not {"train/responses", "train/sampling_gap"} & names


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": " "}, r"chosen of row 2 is empty; remove the row"),
        ({"rejected": None}, r"rejected of row 2 is empty"),
        ({"chosen": "same", "rejected": "same"}, r"chosen and rejected of row 2 are the same"),
        ({"prompt": ""}, r"data\.train: the prompt of row 2 is empty"),
        ({"preference": 1.5}, r"the preference of row 2 is 1\.5, not a probability"),
        (rows_of()[0], r"rows 0 and 2 both ask"),
        ({"chosen": "nice " * 200}, r"have \d+ tokens, more than the model's context of 128"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_row_that_is_no_pair_is_refused_with_its_number(fit, monkeypatch, change, words):
    monkeypatch.setattr(LanguageModel, "load", lambda self, device="cpu": pytest.fail("weights were loaded"))
    rows = rows_of()
    rows[2] = rows[2] | change
    with pytest.raises(ValueError, match=words):
        fit(rows)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": "a", "rejected": "b"}, "row 7 has no prompt"),
        ({"chosen": [user("a")], "rejected": "b"}, "must end with an assistant's message"),
        (
            {
                side: [{"role": "user", "content": side}, {"role": "assistant", "content": side}]
                for side in ("chosen", "rejected")
            },
            "chosen and rejected of row 7 answer different conversations",
        ),
    ],
)
def test_a_row_that_asks_nothing_is_refused(row, words):
    with pytest.raises(ValueError, match=words):
        as_pair(row, "row 7")


def test_a_chat_of_several_turns_keeps_them():
    turns = [user("the cat"), assistant("good"), user("the dog")]
    sides = {side: [*turns, assistant(side)] for side in ("chosen", "rejected")}
    expected = {"messages": turns, "chosen": "chosen", "rejected": "rejected"}
    assert as_pair(sides, "row 0") == expected
    assert as_pair(sides | {"prompt": "the dog"}, "row 0") == expected
    assert as_pair({"prompt": turns, "chosen": "chosen", "rejected": "rejected"}, "row 0") == expected


FEEDBACK = {  # the columns of UltraFeedback, binarized
    "prompt": "the cat",
    "prompt_id": "1",
    "chosen": [user("the cat"), assistant("good")],
    "rejected": [user("the cat"), assistant("bad")],
    "messages": [user("the cat"), assistant("good")],
    "score_chosen": 8.0,
    "score_rejected": 5.0,
}


def test_a_prompt_beside_conversations_is_what_they_begin_with():
    kept = {"prompt_id": "1", "score_chosen": 8.0, "score_rejected": 5.0, "chosen": "good", "rejected": "bad"}
    assert as_pair(FEEDBACK, "row 0") == kept | {"prompt": "the cat"}
    alone = {name: value for name, value in FEEDBACK.items() if name != "prompt"}
    assert as_pair(alone, "row 0") == kept | {"prompt": "the cat"}
    with pytest.raises(ValueError, match=r"prompt of row 0 is not what its conversations begin with: .*data\.columns"):
        as_pair(FEEDBACK | {"prompt": "the cat, in German"}, "row 0")
    with pytest.raises(ValueError, match="prompt of row 0 is not what its conversations begin with"):
        as_pair(alone | {"messages": [user("the dog"), assistant("good")]}, "row 0")


@pytest.mark.parametrize("layout", ["a list", "both", "conversations alone"])
def test_held_out_prompts_may_have_the_layout_of_the_pairs(tmp_path, layout):
    def rows(*asked):
        for content in asked:
            before = [] if layout == "a list" else [user(content)]
            sides = {side: [*before, assistant(side)] for side in ("chosen", "rejected")}
            yield sides if layout == "conversations alone" else sides | {"prompt": [user(content)]}

    train = write_jsonl(tmp_path / "train.jsonl", list(rows("the cat", "the dog")))
    data = PairData(train, heldout=list(rows("a day", "the rain")), prompts_per_iteration=1, batch_size=1)
    data.read("train", "heldout")
    assert [prompt_text(record) for record in data.rows["heldout"]] == ["a day", "the rain"]
    for asked in (list(rows("the dog")), [{"prompt": "the dog"}], [{"messages": [user("the dog")]}]):
        with pytest.raises(ValueError, match=r"data\.heldout: 'the dog' is in data\.train too \(row 1\)"):
            PairData(train, heldout=asked, prompts_per_iteration=1, batch_size=1).read("train", "heldout")


@pytest.mark.parametrize("name", ["chosen", "rejected"])
def test_a_missing_column_is_named(fit, name):
    rows = [{k: v for k, v in row.items() if k != name} for row in rows_of()]
    with pytest.raises(ValueError, match=rf"data\.train has no `{name}` column|neither a `prompt`"):
        fit(rows)


def test_a_held_out_prompt_that_is_trained_on_is_refused(fit, tmp_path):
    path = write_jsonl(tmp_path / "heldout.jsonl", [{"prompt": rows_of()[3]["prompt"]}])
    with pytest.raises(ValueError, match=r"data\.heldout: .* is in data\.train too \(row 3\)"):
        fit(rows_of(), data={"heldout": path})


@pytest.mark.parametrize("change", [{"data": {"eps": 0.1}}, {}])
def test_a_label_in_doubt_needs_a_pairing_that_weighs_it(fit, change):
    rows = rows_of() if change else rows_of(preference=0.9)
    with pytest.raises(ValueError, match=r"DPO takes every label for certain, and these may be .*: set model\.pairing"):
        fit(rows, **change)


@pytest.mark.parametrize("options", [{"eps": 0.5}, {"max_response_tokens": 0}, {"streaming": True}], ids=str)
def test_an_argument_without_a_meaning_is_refused(options):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(options))}"):
        PairData("pairs.jsonl", **options)


def test_fewer_pairs_than_a_step_takes_are_refused(fit):
    with pytest.raises(ValueError, match=r"data\.train has 3 pairs, fewer than an optimiser step takes \(4\)"):
        fit(rows_of(3))


@pytest.mark.parametrize("kind", [WIND, INPO, ONPO])
def test_a_method_that_needs_its_own_responses_refuses_pairs(kind: type[AlignmentModule], tiny_model):
    module = kind(LanguageModel(tiny_model), RewardFunction("tests.conftest.happiness"))
    with pytest.raises(ValueError, match=rf"{kind.__name__} learns from responses that its own policies draw"):
        check_data(module, PairData("pairs.jsonl"))


def test_prompts_without_a_judge_are_refused_with_what_to_type(fit, tiny_model, pools, tmp_path):
    run = Fit(tiny_model, "", tmp_path / "runs")
    run.data = PromptPool(**pools, prompts_per_iteration=4)
    with pytest.raises(ValueError, match=r"DPO has no judge.*--model\.judge RewardFunction .*--data PairData"):
        run.fit()


@pytest.fixture
def config(tmp_path, tiny_model) -> str:
    written = {
        "trainer": {"default_root_dir": str(tmp_path / "runs"), "max_epochs": 1, "accelerator": "cpu", "logger": False},
        "model": {
            "class_path": "DPO",
            "init_args": {
                "anchor": "Initial",
                "policy": {"class_path": "LanguageModel", "init_args": {"name": tiny_model}},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
            },
        },
        "data": {"class_path": "PairData", "init_args": {"train": write_jsonl(tmp_path / "pairs.jsonl", rows_of())}},
    }
    written["trainer"]["enable_progress_bar"] = False
    return write_yaml(tmp_path / "config" / "config.yaml", written).as_posix()


def test_the_command_line_trains_on_pairs(config):
    cli = main(["fit", "-c", config, "--data.passes", "2"])
    assert cli.trainer.global_step == 4
    run = Path(cli.trainer.default_root_dir)
    again = yaml.safe_load((run / "config.yaml").read_text())
    assert again["data"]["class_path"].endswith("PairData")
    assert json.loads((run / "model" / "config.json").read_text())["model_type"] == "llama"


def test_a_method_that_draws_is_refused_in_one_line(config, monkeypatch, capsys):
    judge = ["--model.judge", "RewardFunction", "--model.judge.function", "tests.conftest.happiness"]
    line = refusal(monkeypatch, capsys, "fit", "-c", config, "--model", "WIND", *judge)
    assert "WIND learns from responses that its own policies draw" in line


def test_responses_longer_than_any_drawn_are_scored_within_the_token_budget(fit, monkeypatch):
    seen: list[int] = []
    logps = LanguageModel.logps

    def counted(self, responses, source="policy"):
        if not torch.is_grad_enabled():
            seen.append((responses.prompts.trim().ids.shape[1] + responses.trim().ids.shape[-1]) * 2 * len(responses))
        return logps(self, responses, source)

    monkeypatch.setattr(LanguageModel, "logps", counted)
    rows = [row | {"chosen": "nice " * 30} for row in rows_of()]
    sampler = Sampler(max_new_tokens=2, token_budget=200)
    values = fit(rows, dpo={"sampler": sampler}, epochs=1).stored().anchor_token_logps
    assert len(seen) > 1
    assert max(seen) <= 200
    whole = fit(rows, epochs=1).stored().anchor_token_logps
    assert_same_but_rounding(values, whole)


def test_a_policy_that_reads_no_text_says_so():
    policy = TabularPolicy(RandomGame(contexts=1, responses=2))
    with pytest.raises(ValueError, match=r"TabularPolicy does not read text"):
        policy.encode_responses(policy.encode(policy.game.records), [["0", "1"]], 4)
