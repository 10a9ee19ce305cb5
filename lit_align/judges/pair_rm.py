r"""PairRM, the judge of the SPPO, APO and WIND papers, is a ranker that reads two candidates side by side.

[1] D. Jiang, X. Ren, B. Y. Lin, "LLM-Blender: Ensembling Large Language Models with Pairwise Ranking and Generative
    Fusion", ACL 2023, arXiv:2306.02561. Its code, llm-blender (``pair_ranker/pairrm.py``, ``blender/blender_utils.py``,
    ``gpt_eval/utils.py``), defines the head, the layout and lengths of the input, and a candidate's score.
[2] Y. Wu et al., "Self-Play Preference Optimization for Language Model Alignment", ICLR 2025, arXiv:2405.00675.

Layout, head and scores follow that code and are tested on small random checkpoints in its format. The published weights
were not available to us: that they load, and give the logits of their README (1.900 for "hi!" against "f**k off!" in
answer to "hello!", in this order alone), is not verified.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.judges.base import Judge, Report, Verdict
from lit_align.judges.model_size import model_bytes
from lit_align.judges.row_by_row import RowByRow
from lit_align.types import Prompts, Record, SpecialTokens, spoken
from lit_align.utils.digests import model_digest
from lit_align.utils.out_of_memory import Halving
from lit_align.utils.whole_weights import load_whole

MARKERS = {"source_prefix_id": "<|source|>", "cand1_prefix_id": "<|candidate1|>", "cand2_prefix_id": "<|candidate2|>"}
"""These keys of the checkpoint's config number these tokens."""

_CONVERSATION = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
"""The ranker was trained to read it before a chat of several turns, misspelling included."""

Row = tuple[list[int], list[int]]
"""It holds token ids, and where the three markers stand."""


class PairRM(Judge):
    r"""Compares responses with a pair ranker [1], in both orders.

    .. math::
        P(y_1 \succ y_2) = \sigma(s_{12}), \quad s_{12} = \tfrac12 \big[ f(x, y_1, y_2) - f(x, y_2, y_1) \big]

    where f is the first candidate's score less the second's, the logit that the ranker was trained on. With
    ``aggregation: scores`` the wins of a group come from one score a response, as in [2]: :math:`\sigma(r_i - r_j)`,
    :math:`r_i = \tfrac2K \sum_j s_{ij}`; they are transitive, and in a group of two twice as sure. Evaluation always
    asks about the pair.

    Args:
        model: Hub id or local folder, in the format of ``llm-blender/PairRM-hf``.
        aggregation: ``pair`` or ``scores``.
        source_tokens: Longest prompt, markers included, >= 4; what is longer loses its end, as in [1].
        candidate_tokens: Longest candidate, markers included, >= 4; what a prompt leaves free is shared by its
            candidates.
        token_budget: Most tokens, padding included, in one forward pass, >= 4; bounds memory, changes nothing else.
        dtype: Dtype of the weights.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ValueError: A length is less than 4.
    """

    patience = None  # it waits for nobody, so any error is one of its code

    def __init__(
        self,
        model: str = "llm-blender/PairRM-hf",
        aggregation: Literal["pair", "scores"] = "pair",
        source_tokens: int = 1224,
        candidate_tokens: int = 412,
        token_budget: int = 16_384,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        revision: str = "main",
        special_tokens: SpecialTokens = "drop",
    ) -> None:
        lengths = {"source_tokens": source_tokens, "candidate_tokens": candidate_tokens, "token_budget": token_budget}
        for name, value in lengths.items():
            if value < 4:  # three special tokens and one of text need room
                raise ValueError(f"judge.{name} must be >= 4, got {value}")
        self.path = model
        self.aggregation = aggregation
        self.source_tokens = source_tokens
        self.candidate_tokens = candidate_tokens
        self.token_budget = token_budget
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.revision = revision
        self.special_tokens: SpecialTokens = special_tokens
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        self.device: torch.device | str = "cpu"
        advice = "set judge.dtype to bfloat16, or lower judge.source_tokens and judge.candidate_tokens"
        self._rows = RowByRow(model, self.dtype, Halving("judging", "comparison", advice))
        self._model: Any = None
        self._tokenizer: Any = None
        self._markers: dict[str, int] = {}

    @property
    @override
    def name(self) -> str:
        return self.path

    @override
    def settings(self) -> dict[str, Any]:
        return super().settings() | {"model": model_digest(self.path, self.revision)}

    @property
    @override
    def bytes(self) -> float | None:
        return model_bytes(self.path, self.dtype)

    @override
    def to(self, device: torch.device | str) -> None:
        self.device = device
        if self._model is not None:
            self._model.to(device)

    @override
    def check(self) -> None:
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(self.path, **self._hub).to_dict()
        missing = sorted({"n_tasks", *MARKERS} - config.keys())
        if missing:
            raise ValueError(
                f"judge.model: the config of {self.path} has no {missing[0]}: it is no PairRM in the format of "
                "transformers, such as llm-blender/PairRM-hf"
            )
        # The end is cut, since each part begins with its marker, and the head reads the markers.
        tokenizer = AutoTokenizer.from_pretrained(self.path, truncation_side="right", **self._hub)
        for key, token in MARKERS.items():
            if tokenizer.convert_tokens_to_ids(token) != config[key]:
                raise ValueError(f"judge.model: tokenizer and config of {self.path} number {token} differently")
        self._markers = {key: config[key] for key in MARKERS}
        self._tokenizer = tokenizer

    @override
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        probabilities: list[float] = self._logits(prompts, first, second, records).sigmoid().tolist()
        return probabilities

    @override
    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        if self.aggregation == "pair":
            return super().verdict(prompts, texts, report)
        size = len(texts[0])
        pairs = list(combinations(range(size), 2))
        first, second = torch.tensor(pairs).unbind(1)
        wins = torch.full((len(texts), size, size), 0.5)
        for row, group in enumerate(texts):
            columns = [group[i] for i, _ in pairs], [group[j] for _, j in pairs]
            asked = [prompts.texts[row]] * len(pairs), *columns, [prompts.records[row]] * len(pairs)
            logits = torch.zeros(size, size)
            logits[first, second] = self._logits(*asked)
            scores = 2 * (logits - logits.mT).mean(1)
            wins[row] = (scores[:, None] - scores[None, :]).sigmoid()
            if report is not None:
                report(1)
        return Verdict(wins, torch.ones_like(wins, dtype=torch.bool), None)

    @torch.no_grad()
    def _logits(
        self, prompts: list[str], first: list[str], second: list[str], records: list[Record]
    ) -> Float[Tensor, " pairs"]:
        """Return s_12 of every pair."""
        self._load()
        asked = list(zip(prompts, first, second, records, strict=True))
        rows = [self._row(x, *pair, r) for x, a, b, r in asked for pair in ((a, b), (b, a))]
        lengths = [len(ids) for ids, _ in rows]

        def score(some: Sequence[int]) -> Tensor:
            ids, mask = _pad_right([rows[i][0] for i in some])
            inputs = ids, mask, torch.tensor([rows[i][1] for i in some])
            scores: Tensor = self._model(*(tensor.to(self.device) for tensor in inputs)).cpu()
            return scores

        values = self._rows.scores(lengths, list(self._batches(lengths)), score, lambda i: float(score([i])))
        forward, backward = values.view(-1, 2).unbind(1)
        return (forward - backward) / 2

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield rows, shortest first, in runs that fit the budget; each run has at least one."""
        some: list[int] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            if some and lengths[row] * (len(some) + 1) > self.token_budget:
                yield some
                some = []
            some.append(row)
        if some:
            yield some

    def _row(self, prompt: str, first: str, second: str, record: Record) -> Row:
        prompt, first, second = _turns(prompt, first, second, record)
        ids: list[int] = []
        places: list[int] = []
        limit = self.source_tokens
        for (key, marker), text in zip(MARKERS.items(), (prompt, first, second), strict=True):
            part = self._tokenizer(marker + self._plain(text), truncation=True, max_length=limit)["input_ids"]
            places.append(len(ids) + part.index(self._markers[key]))
            ids += part
            if key == "source_prefix_id":
                limit = self.candidate_tokens + (self.source_tokens - len(ids)) // 2
        return ids, places

    def _plain(self, text: str) -> str:
        """Return the text without markers and separators of its own, which would forge another layout."""
        for token in (*MARKERS.values(), self._tokenizer.sep_token):
            text = text.replace(token, " ")
        return text

    def _load(self) -> None:
        if self._model is not None:
            return
        from lit_align.judges.pair_ranker import PairRanker

        self.check()
        model = load_whole(PairRanker, self.path, "model.judge.model", revision=self.revision, dtype=self.dtype)
        self._model = model.to(self.device).eval()


def _pad_right(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.arange(width) < torch.tensor([[len(row)] for row in rows])


def _turns(prompt: str, first: str, second: str, record: Record) -> tuple[str, str, str]:
    """Return a chat of several turns as [1] lays it out; its format has no place for a system message."""
    turns = spoken(record)
    asked = [text for role, text in turns if role == "user"]
    said = [text for role, text in turns if role == "assistant"]
    if not said:
        return prompt, first, second
    source = "\n".join(f"USER: {text}\nAssistant: <Response {turn}>" for turn, text in enumerate(asked, 1))
    before = "".join(f"<Response {turn}>: {text}\n" for turn, text in enumerate(said, 1))
    first, second = (f"{before}<Response {len(said) + 1}>: {candidate}" for candidate in (first, second))
    return _CONVERSATION + source, first, second
