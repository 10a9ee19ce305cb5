"""A replay is the run again: the same bytes, the same weights; for another algorithm, its own anchor's scores."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_align import DPO, EXO, JBOND, WIND, Initial, LanguageModel, LoRA, MovingAverage, NashMD, Sampler
from lit_align.cli import main
from lit_align.data.pair_data import PairData
from lit_align.data.replay import Replay
from lit_align.data.rollout_store import load_rollouts, save_rollouts
from lit_align.iteration.scores import Remembered
from lit_align.run_folder import RunFolder, recorded
from lit_align.types import Rollouts
from tests.command_line import forbid_weights, refusal, write_config
from tests.conftest import prompts_of, write_jsonl
from tests.rounding import assert_same_but_rounding
from tests.tiny_runs import assert_same_weights, build


def anew(run, data, module=None):
    """The run over other data, or of another module."""
    run.pool, run.module = data, module or run.module
    return run


@pytest.fixture
def run(tiny_model, pools, tmp_path):
    def make(**options):
        return build(tiny_model, pools, tmp_path / "runs", **options)

    return make


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """A run of WIND of two iterations, without evaluation."""
    folder = tmp_path_factory.mktemp("finished")
    train = write_jsonl(folder / "train.jsonl", prompts_of(16))
    return build(tiny_model, {"train": train}, folder / "runs").fit()


@pytest.fixture
def counted(monkeypatch):
    """Responses sampled, and scored by each source, since the last look."""
    counts = {"sample": 0, "policy": 0, "reference": 0}
    sample, logps = LanguageModel.sample, LanguageModel.logps

    def counting_sample(self, prompts, uniforms, decoding, source, at_once=0):
        counts["sample"] += uniforms.shape[0] * uniforms.shape[1]
        return sample(self, prompts, uniforms, decoding, source, at_once)

    def counting_logps(self, responses, source="policy"):
        counts[source] += 0 if torch.is_grad_enabled() else len(responses) * responses.group_size
        return logps(self, responses, source)

    monkeypatch.setattr(LanguageModel, "sample", counting_sample)
    monkeypatch.setattr(LanguageModel, "logps", counting_logps)
    return counts


OPTIONS = {
    "full weights": lambda: {"lora": None, "lr": 0.01},
    "dropout": lambda: {"lora": LoRA(rank=4, dropout=0.2)},
    "moving average": lambda: {"wind": {"anchor": MovingAverage(0.5)}},
    "accumulation and passes": lambda: {"pool": {"batch_size": 2, "passes": 2}, "accumulate_grad_batches": 2},
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name == "accumulation and passes" else pytest.mark.slow)
        for name, options in OPTIONS.items()
    ],
)
def test_a_replay_of_the_same_config_ends_with_the_same_weights_bit_for_bit(run, pools, options):
    first = run(**options()).fit()
    pool = {"batch_size": 4} | options().get("pool", {})
    again = anew(run(**options()), Replay(str(first.folder), heldout=pools["heldout"], **pool)).fit()
    assert_same_weights(first.weights, again.weights)
    assert again.rows == first.rows
    for iteration in (0, 1):
        assert again.table(iteration).equals(first.table(iteration))


def test_nothing_is_sampled_or_judged_and_no_judge_is_needed(run, finished, counted):
    again = run()
    again.module = WIND(again.module.policy, None, beta=0.1, eta=2.0, optimizer=again.module.optimizer)
    anew(again, Replay(str(finished.folder))).fit()
    assert counted["sample"] == 0
    assert_same_weights(finished.weights, again.weights)


def test_what_was_scored_by_the_very_same_policies_is_not_scored_again(run, counted):
    few = {"sampler": Sampler(group_size=4, max_new_tokens=8, token_budget=150)}
    finished = run(wind=few)
    finished.pool.sources["heldout"] = None
    finished.fit()
    # The reference is the policy still in the first iteration, where one group is enough.
    assert (counted["policy"], counted["reference"]) == (2 * 8 * 4, 8 * 4 + 4)
    counted |= {"sample": 0, "policy": 0, "reference": 0}
    again = anew(run(wind=few), Replay(str(finished.folder))).fit()
    assert 0 < counted["reference"] <= counted["policy"] < 8 * 4  # the first micro-batch of each iteration
    assert_same_weights(finished.weights, again.weights)


def test_another_algorithm_has_the_responses_and_its_own_anchors_scores(run, finished, tiny_model):
    other = run()
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4))
    sgd = other.module.optimizer
    dpo = DPO(policy, None, beta=0.5, optimizer=sgd, sampler=Sampler(group_size=4, max_new_tokens=8))
    other = anew(other, Replay(str(finished.folder)), dpo).fit()
    first, second = (load_rollouts(other.folder / "rollouts" / f"iteration-000{t}-rank0.parquet") for t in (0, 1))
    was = [load_rollouts(finished.folder / "rollouts" / f"iteration-000{t}-rank0.parquet") for t in (0, 1)]
    for mine, theirs in zip((first, second), was, strict=True):
        assert torch.equal(mine.responses.ids, theirs.responses.ids)
        assert torch.equal(mine.wins, theirs.wins)
        assert torch.equal(mine.rewards, theirs.rewards)
        assert mine.reference_token_logps is None  # DPO reads the anchor alone
    assert torch.equal(first.anchor_token_logps, was[0].anchor_token_logps)  # both start from the initial model
    assert (second.anchor_token_logps - was[1].anchor_token_logps).abs().max() > 1e-3
    halfway = anew(run(max_epochs=1), Replay(str(finished.folder)), replica(dpo, tiny_model)).fit()
    with torch.no_grad():
        own = halfway.module.policy.eval().logps(second.responses)
    assert_same_but_rounding(second.anchor_token_logps, own)


def replica(module, model):
    policy = LanguageModel(model, lora=LoRA(rank=4))
    return DPO(policy, None, beta=module.beta, optimizer=module.optimizer, sampler=module.sampler)


def test_dpo_on_winds_rollouts_prefers_what_won(run, finished, tiny_model):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4))
    dpo = DPO(policy, None, beta=0.5, anchor=Initial(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    done = anew(run(max_epochs=4), Replay(str(finished.folder), cycle=True), dpo).fit()
    rollouts = finished_rollouts(done, 0)
    with torch.no_grad():
        ratios = (policy.eval().logps(rollouts.responses) - policy.logps(rollouts.responses, "reference")).sum(-1)
    best, worst = (ratios.gather(1, at(rollouts.rewards, dim=1, keepdim=True)) for at in (torch.argmax, torch.argmin))
    told = rollouts.rewards.amax(1) > rollouts.rewards.amin(1)
    assert (best - worst).squeeze(1)[told].mean() > 0.1


def finished_rollouts(run, iteration: int) -> Rollouts:
    found = load_rollouts(run.folder / "rollouts" / f"iteration-{iteration:04d}-rank0.parquet")
    assert isinstance(found, Rollouts)
    return found


def split(folder: Path, rollouts: Rollouts, ranks: int, iteration: int = 0) -> None:
    for rank in range(ranks):
        part = rollouts.select(range(rank, len(rollouts), ranks)).trim()
        texts = [[""] * part.responses.group_size] * len(part)
        save_rollouts(RunFolder(folder).rollouts(iteration, rank, ranks), part, texts)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_files_of_ranks_are_put_back_into_the_order_they_were_dealt_in(finished, tmp_path, ranks):
    whole = finished_rollouts(finished, 0)
    split(tmp_path, whole, ranks)
    again = Replay(str(tmp_path)).rollouts(0)
    assert again.responses.prompts.records == whole.responses.prompts.records
    for name in ("wins", "rewards", "anchor_token_logps"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert torch.equal(again.responses.ids, whole.responses.ids)
    assert torch.equal(again.responses.prompts.mask, whole.responses.prompts.mask)


def test_two_ranks_are_served_all_of_it_between_them(finished):
    data = Replay(str(finished.folder))
    whole = finished_rollouts(finished, 1)
    for rank in (0, 1):
        assert torch.equal(data.rollouts(1, rank, 2).wins, whole.wins[rank::2])
        assert data.prompts(1, rank, 2).records == whole.responses.prompts.records[rank::2]


def test_a_glob_or_a_file_serves_what_it_names(finished):
    second = finished_rollouts(finished, 1)
    for path in ("iteration-0001-*.parquet", "iteration-0001-rank0.parquet"):
        data = Replay(str(finished.folder / "rollouts" / path))
        assert len(data.files) == 1
        assert torch.equal(data.rollouts(0).responses.ids, second.responses.ids)


def test_a_longer_run_is_refused_or_begins_again_if_asked(run, finished):
    data = Replay(str(finished.folder))
    with pytest.raises(ValueError, match=r"holds 2 iterations, and trainer\.max_epochs is 3: .*--data\.cycle true"):
        anew(run(max_epochs=3), data).fit()
    data = Replay(str(finished.folder), cycle=True)
    assert torch.equal(data.rollouts(2).wins, data.rollouts(0).wins)


def refused(run, data, module=None):
    forbidden = run()
    forbidden.module = module or forbidden.module
    forbidden.module.policy.load = lambda device="cpu": pytest.fail("weights were loaded")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        anew(forbidden, data).fit()
    return str(caught.value)


def test_rollouts_that_do_not_fit_the_algorithm_are_refused_before_weights_load(run, finished, tiny_model, tmp_path):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4))
    data = Replay(str(finished.folder))
    triple = Sampler(sources=("policy", "anchor", "anchor"), max_new_tokens=8)
    assert "JBOND needs responses of policy and anchor, and these are of policy" in refused(
        run, data, JBOND(policy, None, sampler=triple)
    )
    whole = finished_rollouts(finished, 0)
    split(tmp_path / "blind", replace(whole, rewards=None), 1)
    assert "EXO needs rewards, and there are none" in refused(
        run, Replay(str(tmp_path / "blind"), cycle=True), EXO(policy, None)
    )
    labelled = replace(whole, responses=replace(whole.responses, source=("data",) * 4))
    split(tmp_path / "labelled", labelled, 1)
    assert "these are labelled pairs" in refused(run, Replay(str(tmp_path / "labelled"), cycle=True))
    save_rollouts(tmp_path / "unjudged" / "rollouts" / "iteration-0000-rank0.parquet", whole.responses, [[""] * 4] * 8)
    assert "never judged" in refused(run, Replay(str(tmp_path / "unjudged"), cycle=True))
    mixed = Sampler(sources=("policy", "mixture"), max_new_tokens=8)
    assert "NashMD needs responses of policy and mixture" in refused(run, data, NashMD(policy, None, sampler=mixed))


def test_prompts_alone_still_need_a_judge(run, tiny_model, pools):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4))
    assert "EXO has no judge" in refused(run, run().pool, EXO(policy, None))


def test_tokens_of_another_template_are_refused(run, finished, tiny_model):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4), system="be good")
    said = refused(run, Replay(str(finished.folder)), WIND(policy, None))
    assert "other tokens than model.policy makes of them" in said
    assert "model.policy.system" in said


def test_a_heldout_prompt_that_was_recorded_is_refused(run, finished, tmp_path):
    (first, *_) = finished_rollouts(finished, 1).responses.prompts.records
    heldout = write_jsonl(tmp_path / "same.jsonl", [first, *prompts_of(3, offset=70)])
    assert "is in " in (said := refused(run, Replay(str(finished.folder), heldout=heldout)))
    assert "trained on means nothing" in said


def test_what_is_missing_is_named(run, finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no rollouts at .*nowhere"):
        Replay(str(tmp_path / "nowhere"))
    whole = finished_rollouts(finished, 0)
    split(tmp_path, whole, 3)
    (tmp_path / "rollouts" / "iteration-0000-rank1-of-3.parquet").unlink()
    with pytest.raises(ValueError, match=r"iteration 0 has no file of rank 1 beside"):
        Replay(str(tmp_path))
    split(tmp_path, whole, 2)
    names = [path.name for path in recorded(str(tmp_path))[0]]
    assert names == ["iteration-0000-rank0-of-2.parquet", "iteration-0000-rank1-of-2.parquet"]
    split(tmp_path / "unequal", whole, 1)
    split(tmp_path / "unequal", whole.select(range(4)), 1, iteration=1)
    assert "iterations are of 8 and of 4 prompts" in refused(run, Replay(str(tmp_path / "unequal")))


def test_labelled_pairs_are_replayed_by_a_method_of_pairs(run, tiny_model, tmp_path):
    rows = [
        {"prompt": row["prompt"], "chosen": "good day" if i % 2 else "happy cat sun", "rejected": "bad"}
        for i, row in enumerate(prompts_of(8))
    ]

    def fit(data):
        policy = LanguageModel(tiny_model, lora=LoRA(rank=4))
        torch.manual_seed(0)
        dpo = DPO(policy, None, beta=0.5, pairing="all", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        return anew(run(), data, dpo).fit()

    pairs = fit(PairData(write_jsonl(tmp_path / "pairs.jsonl", rows), batch_size=4))
    again = fit(Replay(str(pairs.folder)))
    assert_same_weights(pairs.weights, again.weights)


def test_a_record_that_differs_in_one_bit_is_not_used(finished):
    rollouts = finished_rollouts(finished, 0)
    truth = rollouts.anchor_token_logps
    asked = []

    def score(responses):
        asked.append(len(responses))
        rows = [rollouts.responses.prompts.record_id.tolist().index(i) for i in responses.prompts.record_id.tolist()]
        return truth[rows]

    near = truth.clone()
    near[0, 0, 0] = torch.nextafter(near[0, 0, 0], torch.tensor(0.0))
    for records, expected in (([truth], [2]), ([near], [2, 6]), ([near, truth], [2])):
        asked.clear()
        score_of = Remembered(score, rollouts.responses, records)
        parts = [score_of(rollouts.responses.select(rows)) for rows in ([0, 1], range(2, 8))]
        assert torch.equal(torch.cat(parts), truth)
        assert asked == expected


def test_a_run_is_replayed_from_the_command_line(tiny_model, pools, tmp_path):
    folder = write_config(tmp_path, tiny_model, pools)
    first = main(["fit", "-c", folder])
    run = Path(first.trainer.default_root_dir)
    again = main(["fit", "-c", str(run), "--data", "Replay", "--data.path", str(run)])
    assert type(again.datamodule) is Replay
    assert again.trainer.default_root_dir != str(run)
    assert_same_weights(first.model.state_dict(), again.model.state_dict())


def test_the_command_line_says_what_does_not_fit(monkeypatch, capsys, tiny_model, pools, tmp_path):
    forbid_weights(monkeypatch)
    folder = write_config(tmp_path, tiny_model, pools)
    said = refusal(monkeypatch, capsys, "fit", "-c", folder, "--data", "Replay", "--data.path", str(tmp_path / "no"))
    assert "there are no rollouts at" in said
