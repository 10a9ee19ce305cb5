"""A trained reward model judges: it is any sequence classifier with one output."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from typing_extensions import override

from lit_align.judges.classifier import Classifier, Row
from lit_align.judges.model_size import model_bytes
from lit_align.judges.reward import Comparison, RewardJudge
from lit_align.judges.row_by_row import RowByRow
from lit_align.types import Record, SpecialTokens, turns_before
from lit_align.utils.digests import model_digest
from lit_align.utils.out_of_memory import Halving
from lit_align.utils.whole_weights import load_whole


class RewardModel(RewardJudge):
    """Scores prompt and response with an ``AutoModelForSequenceClassification`` of one label.

    A tokenizer with a chat template gets the conversation and the response as the assistant's turn; one without gets
    prompt and response as a text pair. The score is the one that plain transformers gives to that conversation alone:
    the first batch is scored a second time one row at a time, and where that changes scores by more than rounding, all
    rows are, which one line of the log says.

    Args:
        model: Hub id or local folder.
        comparison: ``bradley_terry`` (most reward models are trained so) or ``hard``.
        batch_size: Responses scored at once, >= 1; similar lengths are scored together.
        dtype: Dtype of the weights.
        trust_remote_code: Run code that comes with the model. Leave it off unless you trust its author.

    Raises:
        ValueError: ``temperature`` is not positive, or ``batch_size`` < 1.
    """

    patience = None  # it waits for nobody, so any error is one of its code

    def __init__(
        self,
        model: str,
        comparison: Comparison = "bradley_terry",
        temperature: float = 1.0,
        batch_size: int = 16,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        trust_remote_code: bool = False,
        special_tokens: SpecialTokens = "drop",
    ) -> None:
        super().__init__(comparison, temperature, special_tokens)
        if batch_size < 1:
            raise ValueError(f"model.judge.batch_size must be >= 1, got {batch_size}")
        self.path = model
        self.batch_size = batch_size
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.trust_remote_code = trust_remote_code
        self.device: torch.device | str = "cpu"
        halving = Halving("judging", "response", "set judge.dtype to bfloat16, or take a smaller judge.model")
        self._rows = RowByRow(model, self.dtype, halving)
        self._network: Classifier | None = None
        self._tokenizer: Any = None

    @property
    @override
    def name(self) -> str:
        return self.path

    @override
    def settings(self) -> dict[str, Any]:
        return super().settings() | {"model": model_digest(self.path)}

    @property
    @override
    def bytes(self) -> float | None:
        return model_bytes(self.path, self.dtype)

    @override
    def to(self, device: torch.device | str) -> None:
        self.device = device
        if self._network is not None:
            self._network.model.to(device)

    @override
    def check(self) -> None:
        from transformers import AutoConfig

        labels = AutoConfig.from_pretrained(self.path, trust_remote_code=self.trust_remote_code).num_labels
        if labels != 1:
            raise ValueError(f"judge.model: {self.path} has {labels} labels, a reward model has 1")

    @torch.no_grad()
    @override
    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        network = self._loaded()
        rows = [self._encode(*row) for row in zip(prompts, responses, records, strict=True)]
        lengths = [len(row["input_ids"]) for row in rows]
        values: list[float] = self._rows.scores(
            lengths,
            self._batches(lengths, network.longest_batched),
            together=lambda some: network.together([rows[i] for i in some]),
            alone=lambda i: network.alone(rows[i]),
        ).tolist()
        return values

    def _batches(self, lengths: list[int], longest: float) -> list[list[int]]:
        """Return rows of similar lengths together, and each one that is longer than the longest by itself."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        short = [i for i in order if lengths[i] <= longest]
        batches = [short[start : start + self.batch_size] for start in range(0, len(short), self.batch_size)]
        return batches + [[i] for i in order[len(short) :]]

    def _loaded(self) -> Classifier:
        if self._network is not None:
            return self._network
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        self.check()
        self._tokenizer = AutoTokenizer.from_pretrained(self.path, truncation_side="left", **options)
        kind = AutoModelForSequenceClassification
        model = load_whole(kind, self.path, "model.judge.model", dtype=self.dtype, **options)
        self._network = Classifier(model.to(self.device).eval())
        return self._network

    def _encode(self, prompt: str, response: str, record: Record) -> Row:
        if self._tokenizer.chat_template is None:
            return dict(self._tokenizer(prompt, response, truncation=True))
        messages = turns_before(record) or [{"role": "user", "content": prompt}]
        text = self._tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": response}], tokenize=False
        )
        return dict(self._tokenizer(text, add_special_tokens=False, truncation=True))
