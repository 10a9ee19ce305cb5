"""A trained reward model as judge: any sequence classifier with one output."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from lit_align.judges.model_size import model_bytes
from lit_align.judges.reward import Comparison, RewardJudge
from lit_align.types import Record, SpecialTokens, turns_before
from lit_align.utils.digests import model_digest
from lit_align.utils.out_of_memory import Halving


class RewardModel(RewardJudge):
    """Scores prompt and response with an ``AutoModelForSequenceClassification`` of one label.

    A tokenizer with a chat template gets the conversation and the response as the assistant's turn; one without gets
    prompt and response as a text pair.

    Args:
        model: Hub id or local folder.
        comparison: ``bradley_terry`` (most reward models are trained so) or ``hard``.
        temperature: Of the Bradley-Terry law, in units of reward, > 0.
        batch_size: Responses scored at once; similar lengths are scored together.
        dtype: Dtype of the weights.
        trust_remote_code: Run code that comes with the model. Off unless you trust its author.
        special_tokens: Whether it reads the special tokens inside a response, such as ``<think>``: ``keep``, ``drop``.
    """

    patience = None  # it waits for nobody: an error is one of its code

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
        self.path = model
        self.batch_size = batch_size
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.trust_remote_code = trust_remote_code
        self.device: torch.device | str = "cpu"
        self._halving = Halving("judging", "response", "set judge.dtype to bfloat16, or take a smaller judge.model")
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def name(self) -> str:
        """The model's path."""
        return self.path

    def settings(self) -> dict[str, Any]:
        """The arguments; the model by its files, wherever they lie."""
        return super().settings() | {"model": model_digest(self.path)}

    @property
    def bytes(self) -> float | None:
        """The weights of its model."""
        return model_bytes(self.path, self.dtype)

    def to(self, device: torch.device | str) -> None:
        """Score on this device."""
        self.device = device
        if self._model is not None:
            self._model.to(device)

    def check(self) -> None:
        """Refuse a model with several labels before anything is sampled; reads its config alone."""
        from transformers import AutoConfig

        labels = AutoConfig.from_pretrained(self.path, trust_remote_code=self.trust_remote_code).num_labels
        if labels != 1:
            raise ValueError(f"judge.model: {self.path} has {labels} labels, a reward model has 1")

    @torch.no_grad()
    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        """The classifier's one logit for each response."""
        self._load()
        rows = [self._encode(*row) for row in zip(prompts, responses, records, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        values = [0.0] * len(rows)

        def score(some: Sequence[int]) -> list[float]:
            batch = self._tokenizer.pad([rows[i] for i in some], return_tensors="pt").to(self.device)
            scores: list[float] = self._model(**batch).logits[:, 0].float().tolist()
            return scores

        for some, scores in self._halving.each(batches, score):
            for i, value in zip(some, scores, strict=True):
                values[i] = value
        return values

    def _load(self) -> None:
        if self._model is not None:
            return
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        options = {"trust_remote_code": self.trust_remote_code}
        self.check()
        self._tokenizer = AutoTokenizer.from_pretrained(self.path, truncation_side="left", **options)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token  # masked, so any token will do
        model = AutoModelForSequenceClassification.from_pretrained(self.path, dtype=self.dtype, **options)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model.to(self.device).eval()

    def _encode(self, prompt: str, response: str, record: Record) -> dict[str, Any]:
        if self._tokenizer.chat_template is None:
            encoded = self._tokenizer(prompt, response, truncation=True)
        else:
            messages = turns_before(record) or [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": response}], tokenize=False
            )
            encoded = self._tokenizer(text, add_special_tokens=False, truncation=True)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}
