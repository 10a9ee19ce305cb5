"""This is all that we use of third parties beyond their documented interface: one part a piece, and nowhere else.

A new version of a library may move any of it; each part has a test that says which library has moved what. What costs
time to import is imported when it is first asked for.
"""

import argparse
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor, nn


def moved(library: str, part: str) -> str:
    """Return what to say of a part that is not where it was, such as ``lightning 2.6.6 has moved Trainer.x``."""
    return f"{library} {version(library)} has moved {part}: lit_align/compat.py has to follow"


@cache
def part_of(library: str, module: str, name: str) -> Any:
    """Return something that a library keeps in a module of its own.

    Raises:
        ImportError: It is not there in the installed version, which is named.
    """
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(moved(library, f"{module}.{name}")) from error


class SubcommandCLI(LightningCLI):
    """Gives public names to what :class:`lit_align.cli.AlignmentCLI` changes of LightningCLI.

    Hyper-parameters in a checkpoint leave the config as it is: Lightning lets them override the command line unsaid.
    Only the subcommand that comes first on the command line gets its options: those of all take long to gather.
    """

    def __init__(self, *classes: Any, **options: Any) -> None:
        self.command = next(iter(options.get("args") or []), None)
        super().__init__(*classes, **options)

    def add_further_subcommands(self, parser: Any) -> None:
        """Add subcommands that are not methods of the trainer to a parser that has Lightning's own by now."""

    def parser_of(self, subcommand: str | None) -> LightningArgumentParser:
        """Return the parser of a subcommand's own arguments; of None the whole command line's."""
        return self._parser(subcommand)

    def _add_subcommands(self, parser: Any, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        self.add_further_subcommands(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self.command in self.subcommands() and subcommand != self.command:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def _parse_ckpt_path(self) -> None:
        pass


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    """Return the dotted names of a parser's options, those of its subcommands too."""
    names = {action.dest for action in parser._actions if action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names |= {name for inner in action.choices.values() for name in option_names(inner)}
    return names


@contextmanager
def values_as_typed() -> Iterator[None]:
    """Let jsonargparse take a path for a path and null for null, wherever they are typed.

    It puts the content of whatever file a setting names in the place of its path, where a class may stand for the
    setting, and so takes a file of prompts for a setting: ours reads YAML alone. A null for an argument of a class it
    hands on as the text "None".
    """
    module: Any = import_module("jsonargparse._typehints")
    theirs = part_of("jsonargparse", "jsonargparse._typehints", "parse_value_or_config")
    nested = part_of("jsonargparse", "jsonargparse._util", "NestedArg")

    def ours(value: Any, enable_path: bool = True, **options: Any) -> Any:
        if isinstance(value, nested) and value.val in ("null", "Null", "NULL", "~"):
            return value, None
        is_yaml = isinstance(value, str) and value.endswith((".yaml", ".yml"))
        return theirs(value, enable_path=enable_path and is_yaml, **options)

    module.parse_value_or_config = ours
    try:
        yield
    finally:
        module.parse_value_or_config = theirs


@contextmanager
def on_class_change(
    shared: Callable[[Any, Any], Set[str]], tell: Callable[[Any, Any, dict[str, Any], Set[str]], None]
) -> Iterator[None]:
    """Let one say what a setting keeps where a later file or option changes its class.

    jsonargparse would keep every argument that the new class happens to take as well.

    Args:
        shared: Takes the old class and the new one (or functions) and gives the names of the arguments that go on.
            Two spellings of a class are one class, and it is not asked about them.
        tell: Takes both, the arguments that there were, and the names of those that are kept. One change is told
            several times, since jsonargparse tries it on copies.
    """
    module: Any = import_module("jsonargparse._typehints")
    theirs = part_of("jsonargparse", "jsonargparse._typehints", "discard_init_args_on_class_path_change")
    found_at = part_of("jsonargparse", "jsonargparse._util", "import_object")

    def ours(_: Any, before: Any, after: Any) -> None:
        if not (isinstance(before, Namespace) and before.get("init_args")):
            return
        old, new = found_at(before["class_path"]), found_at(after["class_path"])
        if old is new:
            return
        there, kept = dict(vars(before["init_args"])), vars(before["init_args"])
        for name in there.keys() - shared(old, new):
            del kept[name]
        tell(old, new, there, kept.keys())

    module.discard_init_args_on_class_path_change = ours
    try:
        yield
    finally:
        module.discard_init_args_on_class_path_change = theirs


_SignalConnector: Any = part_of(
    "lightning", "lightning.pytorch.trainer.connectors.signal_connector", "_SignalConnector"
)


class _SigtermConnector(_SignalConnector):
    def __init__(self, trainer: L.Trainer, handle: Callable[[L.Trainer, int], Any]) -> None:
        super().__init__(trainer)
        self.handle = handle

    def _sigterm_notifier_fn(self, signum: int, _: Any) -> None:
        self.handle(self.trainer, signum)


def on_sigterm(trainer: L.Trainer, handle: Callable[[L.Trainer, int], Any]) -> None:
    """Let a function take SIGTERM while a trainer runs, in the place of Lightning's own.

    Lightning's would make all ranks meet inside the handler, wherever they are, and otherwise waits for the next step.
    The trainer restores the handlers that were there before, as ever; ``handle`` takes it and the number of the signal.
    """
    trainer._signal_connector = _SigtermConnector(trainer, handle)


def set_default_root_dir(trainer: L.Trainer, folder: str) -> None:
    """Give a trainer another folder after it was made: its ``default_root_dir`` can only be read."""
    trainer._default_root_dir = folder  # type: ignore[attr-defined]


def keep_batches_as_they_are(trainer: L.Trainer) -> None:
    """Convert nothing in a batch: FSDP1's precision would, and ours are frozen dataclasses."""
    trainer.precision_plugin.convert_input = _unchanged  # type: ignore[method-assign]


def _unchanged(data: Any) -> Any:
    return data


def is_between_epochs(checkpoint: dict[str, Any]) -> bool:
    """Return whether Lightning wrote a checkpoint after an epoch's last batch and before the next one's first."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    return bool(epochs["processed"] == epochs["started"])


def attention_of(config: Any) -> str | None:
    """Return the name of the attention that a model's layers look up at each pass."""
    name: str | None = config._attn_implementation
    return name


def set_attention(config: Any, name: str | None) -> None:
    """Let the model of a config attend by another attention, named in transformers' registry, from its next pass on.

    The model's own ``set_attn_implementation`` goes through all modules: that is too slow for every token.
    """
    config._attn_implementation = name


def sdpa_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    """Attend as transformers' ``sdpa``, which takes keys of fewer heads too, and options such as ``scaling``.

    The tensors are ``[batch, heads, seq, width]``, the mask is what :func:`mask_as_sdpa` gives or an additive one.

    Returns:
        ``[batch, seq, heads, width]``, and None.
    """
    forward = part_of("transformers", "transformers.integrations.sdpa_attention", "sdpa_attention_forward")
    return forward(module, query, key, value, mask, **options)


def mask_as_sdpa(name: str) -> None:
    """Let models make the masks of ``sdpa`` for a named attention of one's own; without, they would make none."""
    from transformers import AttentionMaskInterface

    AttentionMaskInterface.register(name, part_of("transformers", "transformers.masking_utils", "sdpa_mask"))


def has_plain_layers(cache: Any) -> bool:
    """Return whether each layer of a cache keeps all keys and values and nothing else, such as a window or a state.

    What a model has read then lies in ``layer.keys`` and ``layer.values``, ``[rows, heads, tokens, width]``.
    """
    from transformers import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def exchange_layers(cache: Any, instead: Callable[[Any], Any]) -> None:
    """Put into a filled cache other layers, each made of the old one; models update and read those from then on."""
    cache.layers = [instead(layer) for layer in cache.layers]


def initialize_layer(layer: Any, like: Any) -> None:
    """Make a new layer of a cache count as initialised, of the dtype and on the device of one that is filled."""
    layer.lazy_initialization(like.keys, like.values)


def decoder_layers(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a causal LM is a stack of, in order: those that gradient checkpointing recomputes."""
    block = part_of("transformers", "transformers.modeling_layers", "GradientCheckpointingLayer")
    return [module for module in network.modules() if isinstance(module, block)]


def keep_four_bits_unpacked(network: nn.Module) -> None:
    """Let 4-bit layers compute in eval mode as they do in training.

    On CPU bitsandbytes repacks their weights for bfloat16 in eval mode, and sampling and scoring would then see another
    policy than training.
    """
    layer: Any
    for layer in network.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


FLAT_WRAPPER = "_fsdp_wrapped_module."
"""FSDP1 puts this into the names of the parameters that it wraps."""
