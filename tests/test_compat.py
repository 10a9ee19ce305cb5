"""What we rely on in third parties beyond their documented interface; each test says which library has moved what."""

import os
import signal
from contextlib import contextmanager, suppress
from importlib.metadata import version
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.plugins.precision import FSDPPrecision
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, DynamicCache, DynamicLayer

from lit_align import compat
from lit_align.compat import moved
from tests.models.architectures import SHAPE


@contextmanager
def relying_on(library, part):
    """Whatever goes wrong inside is told as a part that the library has moved."""
    try:
        yield
    except BaseException as error:  # Lightning itself would leave by SystemExit on SIGTERM
        raise AssertionError(moved(library, part)) from error


def test_what_is_not_where_it_was_is_named_with_the_library_and_its_version():
    said = rf"^lightning {version('lightning')} has moved "
    with pytest.raises(ImportError, match=said + r"lightning\.pytorch\.cli\._Nothing"):
        compat.part_of("lightning", "lightning.pytorch.cli", "_Nothing")
    with pytest.raises(ImportError, match=said + r"lightning\.nowhere\._Nothing"):
        compat.part_of("lightning", "lightning.nowhere", "_Nothing")
    with pytest.raises(AssertionError, match=said + r"Trainer\._nothing"), relying_on("lightning", "Trainer._nothing"):
        raise AttributeError("'Trainer' object has no attribute '_nothing'")


class Tuned(BoringModel):
    """A model with something to set."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate


class FurtherCLI(compat.SubcommandCLI):
    """A command line of which nothing runs."""

    further = None

    def add_further_subcommands(self, parser):
        self.further = parser

    def instantiate_trainer(self, **kwargs):
        return SimpleNamespace(fit=lambda **given: None)


def command_line(*arguments, kind=FurtherCLI):
    return kind(Tuned, BoringDataModule, args=list(arguments), seed_everything_default=False)


def test_subcommands_are_added_after_lightnings_own():
    with relying_on("lightning", "LightningCLI._add_subcommands"):
        cli = command_line("fit")
        assert cli.further is cli.parser
        assert "fit" in cli.parser.format_help()


def test_a_subcommand_has_a_parser_of_its_own_arguments():
    with relying_on("lightning", "LightningCLI._parser"):
        cli = command_line("fit", "--model.rate", "0.5")
        assert "rate: 0.5" in cli.parser_of("fit").dump(cli.config["fit"])
        assert cli.parser_of("test") is not cli.parser_of("fit")


def test_only_the_subcommand_that_is_asked_for_gathers_its_options():
    with relying_on("lightning", "LightningCLI._prepare_subcommand_parser"):
        cli = command_line("fit", "--model.rate", "0.5")
        assert "--model.rate" in cli.parser_of("fit").format_help()
        assert "--model.rate" not in cli.parser_of("test").format_help()
        assert "test" in cli.parser.format_help()


class Louder(BoringModel):
    """Another with a setting of that name."""

    def __init__(self, rate: float = 2.0, volume: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.volume = volume


class Softer(BoringModel):
    """A third."""

    def __init__(self, rate: float = 3.0, volume: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.volume = volume


class Reads:
    """A place in words, or something that has one."""

    def __init__(self, place: "str | Tuned" = "", note: str | None = "a note") -> None:
        self.place, self.note = place, note


def test_a_file_of_a_setting_is_read_where_it_is_yaml_alone_and_null_is_none(tmp_path):
    (tmp_path / "words.txt").write_text("some words")
    (tmp_path / "tuned.yaml").write_text("class_path: tests.test_compat.Tuned\ninit_args: {rate: 0.5}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Reads, "reads")
    words = ["--reads=tests.test_compat.Reads", f"--reads.place={tmp_path / 'words.txt'}"]
    tuned = ["--reads=tests.test_compat.Reads", f"--reads.place={tmp_path / 'tuned.yaml'}", "--reads.note=null"]
    with relying_on("jsonargparse", "_typehints.parse_value_or_config"), compat.values_as_typed():
        assert parser.parse_args(words).reads.init_args.place == str(tmp_path / "words.txt")
        found = parser.parse_args(tuned).reads.init_args
        assert found.place.init_args.rate == 0.5
        assert found.note is None


def test_what_a_setting_keeps_when_its_class_changes_is_ours_to_say():
    told = []

    def tell(old, new, there, kept):
        told.append((old, new, there, set(kept)))

    with relying_on("jsonargparse", "_typehints.discard_init_args_on_class_path_change"):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(BoringModel, "model")
        here = f"{__name__}.Louder"
        typed = [f"--model={here}", "--model.rate=7", "--model.volume=8", f"--model={__name__}.Softer"]
        with compat.on_class_change(lambda old, new: {"volume"}, tell):
            config = parser.parse_args(typed)
            assert parser.parse_args([*typed[:3], f"--model={here}"]).model.init_args.rate == 7  # the same class
        assert config.model.init_args.as_dict() == {"rate": 3.0, "volume": 8.0}
        assert told
        assert all(line == (Louder, Softer, {"rate": 7.0, "volume": 8.0}, {"volume"}) for line in told)
        assert parser.parse_args(typed).model.init_args.rate == 7  # jsonargparse's own, outside


def test_the_command_line_wins_over_what_a_checkpoint_was_made_with(tmp_path):
    path = tmp_path / "tuned.ckpt"
    torch.save({"hyper_parameters": {"rate": 0.7}}, path)
    arguments = ("fit", "--model.rate", "0.5", "--ckpt_path", str(path))
    with relying_on("lightning", "LightningCLI._parse_ckpt_path"):
        assert command_line(*arguments).model.rate == 0.5

    class Lightnings(FurtherCLI):
        _parse_ckpt_path = L.pytorch.cli.LightningCLI._parse_ckpt_path

    assert command_line(*arguments, kind=Lightnings).model.rate == 0.7  # or there is nothing left to prevent


def trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return L.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **(quiet | options))


class Stopped(BoringModel):
    """Is sent SIGTERM in its first step."""

    def training_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


def test_a_function_takes_sigterm_where_the_program_is_and_only_while_it_runs(tmp_path):
    taken = []

    def handle(whose, signum):
        taken.append((whose, signum))
        raise KeyError

    made, before = trainer(tmp_path, fast_dev_run=True), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)  # it would end the tests where nobody takes it
    ours = signal.getsignal(signal.SIGTERM)
    try:
        with relying_on("lightning", "Trainer._signal_connector or _SignalConnector._sigterm_notifier_fn"):
            compat.on_sigterm(made, handle)
            with suppress(KeyError):
                made.fit(Stopped())
            assert taken == [(made, signal.SIGTERM)]
            assert signal.getsignal(signal.SIGTERM) == ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_trainer_can_be_given_another_folder(tmp_path):
    with relying_on("lightning", "Trainer._default_root_dir"):
        made = trainer(tmp_path / "first")
        compat.set_default_root_dir(made, str(tmp_path / "second"))
        assert made.default_root_dir == str(tmp_path / "second")


class Precise(BoringModel):
    """Keeps what its first minibatch came as."""

    def training_step(self, batch, batch_idx):
        self.seen = batch.dtype
        return super().training_step(batch.float(), batch_idx)


@pytest.mark.parametrize("kept", [False, True])
def test_batches_come_as_they_are_under_a_precision_that_would_round_them(tmp_path, kept):
    made, model = trainer(tmp_path, max_steps=1, limit_val_batches=0), Precise()
    made.strategy.precision_plugin = plugin = FSDPPrecision("bf16-true")
    plugin.convert_module = lambda module: module  # the weights are another matter
    with relying_on("lightning", "Precision.convert_input"):
        if kept:
            compat.keep_batches_as_they_are(made)
        made.fit(model)
        assert model.seen == (torch.float32 if kept else torch.bfloat16)


class Saving(L.Callback):
    """Keeps checkpoints from within an epoch and from its end."""

    def on_train_batch_end(self, trainer, *_):
        self.within = self.saved(trainer, "within")

    def on_train_epoch_end(self, trainer, pl_module):
        self.after = self.saved(trainer, "after")

    def saved(self, trainer, name):
        path = os.path.join(trainer.default_root_dir, f"{name}.ckpt")
        trainer.save_checkpoint(path)
        return torch.load(path, weights_only=True)


def test_a_checkpoint_says_whether_an_epoch_was_over(tmp_path):
    saving = Saving()
    made = trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=0, callbacks=[saving])
    made.fit(BoringModel())
    with relying_on("lightning", 'checkpoint["loops"]["fit_loop"]["epoch_progress"]'):
        assert not compat.is_between_epochs(saving.within)
        assert compat.is_between_epochs(saving.after)


def tiny(kind="llama", **options):
    torch.manual_seed(0)
    whole = {"sliding_window": None} if "sliding_window" not in options else {}
    config = AutoConfig.for_model(kind, **(SHAPE | whole | options))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="sdpa").eval()


IDS = torch.tensor([[1, 9, 12, 7, 20], [0, 0, 1, 8, 3]])


@torch.no_grad()
def test_an_attention_is_looked_up_by_the_name_in_the_config_at_each_pass():
    model, asked = tiny(), []

    def attention(module, query, key, value, mask, **options):
        asked.append(mask)
        return compat.sdpa_attention(module, query, key, value, mask, **options)

    AttentionInterface.register("lit_align_test", attention)
    with relying_on("transformers", "PreTrainedConfig._attn_implementation"):
        assert compat.attention_of(model.config) == "sdpa"
        usual = model(IDS).logits
        compat.set_attention(model.config, "lit_align_test")
        assert torch.equal(model(IDS).logits, usual)
        assert len(asked) == model.config.num_hidden_layers
        compat.set_attention(model.config, "sdpa")
        assert torch.equal(model(IDS).logits, usual)
        assert len(asked) == model.config.num_hidden_layers


@torch.no_grad()
def test_the_attention_and_the_masks_of_sdpa_are_those_a_model_would_use():
    model, masks, seen = tiny(), [], (IDS > 0).long()
    usual = model(IDS, attention_mask=seen).logits

    def attention(module, query, key, value, mask, **options):
        masks.append(mask)
        return compat.sdpa_attention(module, query, key, value, mask, **options)

    with relying_on("transformers", "sdpa_attention_forward or sdpa_mask"):
        AttentionInterface.register("lit_align_masked", attention)
        compat.mask_as_sdpa("lit_align_masked")
        compat.set_attention(model.config, "lit_align_masked")
        assert torch.equal(model(IDS, attention_mask=seen).logits, usual)
        assert all(mask.shape == (2, 1, 5, 5) for mask in masks)


class Noting(DynamicLayer):
    """Says who asked it to keep what."""

    def __init__(self, before):
        super().__init__()
        compat.initialize_layer(self, like=before)
        self.keys, self.values, self.updates = before.keys, before.values, 0

    def update(self, key_states, value_states, *args, **kwargs):
        self.updates += 1
        return super().update(key_states, value_states, *args, **kwargs)


@torch.no_grad()
def test_a_model_updates_and_reads_the_layers_that_were_put_into_its_cache():
    model, ids = tiny(), IDS[:1]
    whole = model(torch.cat([ids, ids], 1)).logits[:, -5:]
    cache = model(ids, use_cache=True).past_key_values
    with relying_on("transformers", "Cache.layers or DynamicLayer.lazy_initialization, keys, values, update"):
        assert compat.has_plain_layers(cache)
        heads, width = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
        assert {layer.keys.shape for layer in cache.layers} == {(1, heads, 5, width)}
        assert {layer.values.shape for layer in cache.layers} == {(1, heads, 5, width)}
        compat.exchange_layers(cache, Noting)
        torch.testing.assert_close(model(ids, past_key_values=cache).logits, whole)
        assert [layer.updates for layer in cache.layers] == [1] * model.config.num_hidden_layers
        cache.batch_repeat_interleave(3)
        assert {len(layer.keys) for layer in cache.layers} == {3}
        cache.batch_select_indices(torch.tensor([0, 2]))
        assert {len(layer.values) for layer in cache.layers} == {2}


def test_a_layer_with_a_window_is_not_plain():
    model = tiny("mistral", sliding_window=3)
    with relying_on("transformers", "Cache.layers"):
        assert not compat.has_plain_layers(DynamicCache(config=model.config))
        assert compat.has_plain_layers(DynamicCache(config=tiny().config))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox"])
def test_the_decoder_is_a_stack_of_blocks_that_can_be_recomputed(kind):
    model = tiny(kind)
    with relying_on("transformers", "GradientCheckpointingLayer"):
        layers = compat.decoder_layers(model)
        assert len(layers) == model.config.num_hidden_layers
        assert len({type(layer) for layer in layers}) == 1


def test_four_bits_are_not_repacked_in_eval_mode():
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(4, 4)
    with relying_on("bitsandbytes", "Linear4bit.support_avx512bf16_for_cpu"):
        assert hasattr(layer, "support_avx512bf16_for_cpu")
        layer.support_avx512bf16_for_cpu = True
        compat.keep_four_bits_unpacked(torch.nn.Sequential(layer))
        assert layer.support_avx512bf16_for_cpu is False


def test_fsdp1_puts_its_wrapper_into_names():
    from torch.distributed.fsdp import FullyShardedDataParallel

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        wrapped = FullyShardedDataParallel(network, use_orig_params=True, device_id=torch.device("cpu"))
        with relying_on("torch", "FullyShardedDataParallel._fsdp_wrapped_module"):
            assert [name for name, _ in wrapped.named_parameters()] == [f"{compat.FLAT_WRAPPER}0.weight"]
    finally:
        torch.distributed.destroy_process_group()
