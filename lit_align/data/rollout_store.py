"""Rollouts lie on disk as one Parquet file an iteration, one row a prompt, replaced whole as each stage completes.

A killed run leaves the last complete stage or the one before it, never half of one. Any tool that reads Parquet reads
them. Each file says where its responses come from: iteration, seed, which policy sampled each response of a group, and
digests of the model, tokenizer, template and weights that sampled them.
"""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lit_align.types import POLICIES, Prompts, Responses, Rollouts, pad_left, prompt_text, token_logps_column
from lit_align.utils.files import write_whole

Origin = dict[str, str]
"""This says where responses and verdicts come from; what changes it is sampled or judged anew."""

JUDGE = ("judge", "judge_identity")
"""An origin names a judge for messages, and holds its identity, which decides."""

_AT_ONCE = re.compile(r", prompts_at_once=\d+")  # version 0.1 names it with the law, and draws the same with any

_TOKEN_LOGPS = tuple(token_logps_column(policy) for policy in POLICIES)


def same_judge(was: Origin, now: Origin) -> bool:
    """Say whether one judge has given both verdicts, of the same rows, as far as their origins tell.

    Version 0.1 tells a judge by its name.
    """
    names = [name for name in reversed(JUDGE) if name in was and name in now]
    told = [*names[:1], *(["columns"] if "columns" in was and "columns" in now else [])]
    return all(was[name] == now[name] for name in told)


def save_rollouts(
    path: Path, rollouts: Responses | Rollouts, texts: list[list[str]], origin: Origin | None = None
) -> None:
    """Write responses (sampled) or rollouts (judged, then scored), atomically.

    Args:
        path: Final name, ending in ``.parquet``; replaced if it exists.
        rollouts: What is known so far.
        texts: The responses as text, for readers of the file.
        origin: What :func:`load_origin` is to return.
    """
    responses = rollouts if isinstance(rollouts, Responses) else rollouts.responses
    prompts = responses.prompts
    columns: dict[str, Any] = {
        "record": [json.dumps(record, default=str) for record in prompts.records],
        "record_id": prompts.record_id.tolist(),
        "prompt_ids": _ragged(prompts.ids, prompts.mask),
        "texts": texts,
        "response_ids": _ragged(responses.ids, responses.mask),
        "truncated": responses.truncated.tolist(),
        "sample_logps": _floats(responses.sample_logps, responses.mask),
    }
    if isinstance(rollouts, Rollouts):
        columns["wins"] = _floats(rollouts.wins)
        columns["compared"] = rollouts.compared.tolist()
        for name in ("rewards", "weights"):
            if (value := getattr(rollouts, name)) is not None:
                columns[name] = _floats(value)
        for policy, value in rollouts.token_logps.items():
            columns[token_logps_column(policy)] = _floats(value, responses.mask)
    key = {"iteration": responses.iteration, "seed": responses.seed, "source": list(responses.source)}
    table = pa.table(columns).replace_schema_metadata({"lit_align": json.dumps(key | {"origin": origin or {}})})
    _write(path, table)


def load_origin(path: Path) -> Origin:
    """Return where the responses in a readable file come from."""
    origin: Origin = json.loads(pq.read_schema(path).metadata[b"lit_align"]).get("origin", {})
    return origin | ({"sampler": _AT_ONCE.sub("", origin["sampler"])} if "sampler" in origin else {})


def load_ids(path: Path) -> list[int]:
    """Return the ids of the prompts that a file holds answers to.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        ids: list[int] = pq.read_table(path, columns=["record_id"])["record_id"].to_pylist()
    except Exception as error:  # a damaged file fails in any way there is
        raise ValueError(f"{path} is damaged or no rollout file ({error})") from error
    return ids


def load_rollouts(path: Path) -> Responses | Rollouts:
    """Return what :func:`save_rollouts` wrote, bit for bit (padding may be narrower).

    Raises:
        ValueError: The file is damaged; the message names it.
    """
    try:
        return _read(path)
    except Exception as error:  # a damaged file fails in any way there is
        raise ValueError(f"{path} is damaged or no rollout file ({error}); delete it to collect it again") from error


def load_texts(path: Path) -> list[tuple[str, list[str]]]:
    """Return the prompt and the responses of each row, as text.

    Raises:
        ValueError: The file is damaged; the message names it.
    """
    try:
        table = pq.read_table(path, columns=["record", "texts"], page_checksum_verification=True)
    except Exception as error:  # a damaged file fails in any way there is
        raise ValueError(f"{path} is damaged or no rollout file ({error}); delete it to collect it again") from error
    records = (json.loads(record) for record in table["record"].to_pylist())
    return list(zip(map(prompt_text, records), table["texts"].to_pylist(), strict=True))


def _read(path: Path) -> Responses | Rollouts:
    table = pq.read_table(path, page_checksum_verification=True)
    origin = json.loads(table.schema.metadata[b"lit_align"])
    columns = table.to_pydict()
    prompt_ids, prompt_mask = pad_left(columns["prompt_ids"])
    prompts = Prompts(
        prompt_ids,
        prompt_mask,
        torch.tensor(columns["record_id"]),
        [json.loads(record) for record in columns["record"]],
    )
    lengths = torch.tensor([[len(ids) for ids in group] for group in columns["response_ids"]])
    width = int(lengths.max())
    responses = Responses(
        prompts=prompts,
        ids=_padded(columns["response_ids"], width, torch.long),
        mask=torch.arange(width) < lengths[..., None],
        truncated=torch.tensor(columns["truncated"]),
        sample_logps=_padded(columns["sample_logps"], width, _dtype(table, "sample_logps")),
        source=tuple(origin["source"]),
        iteration=origin["iteration"],
        seed=origin["seed"],
    )
    if "wins" not in columns:
        return responses
    dtypes = {name: _dtype(table, name) for name in ("wins", "rewards", "weights", *_TOKEN_LOGPS) if name in columns}
    known: dict[str, Any] = {
        name: _padded(columns[name], width, dtype) if name in _TOKEN_LOGPS else torch.tensor(columns[name], dtype=dtype)
        for name, dtype in dtypes.items()
    }
    return Rollouts(responses, compared=torch.tensor(columns["compared"]), **known)


def _floats(values: Tensor, mask: Tensor | None = None) -> pa.Array:
    """Return nested lists in the tensor's own precision, without what the mask leaves out."""
    kind = pa.float64() if values.dtype == torch.float64 else pa.float32()
    for _ in range(values.dim() - 1):
        kind = pa.list_(kind)
    return pa.array(values.tolist() if mask is None else _ragged(values, mask), kind)


def _dtype(table: pa.Table, column: str) -> torch.dtype:
    kind = table.schema.field(column).type
    while pa.types.is_list(kind):
        kind = kind.value_type
    return torch.float64 if kind == pa.float64() else torch.float32


def _ragged(values: Tensor, mask: Tensor) -> list[Any]:
    if values.dim() == 2:
        return [row[kept].tolist() for row, kept in zip(values, mask, strict=True)]
    return [_ragged(group, kept) for group, kept in zip(values, mask, strict=True)]


def _padded(groups: list[list[list[Any]]], width: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor([[row + [0] * (width - len(row)) for row in group] for group in groups], dtype=dtype)


def _write(path: Path, table: pa.Table) -> None:
    try:
        write_whole(path, lambda file: pq.write_table(table, file, write_page_checksum=True))
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error}); what was written before is whole, the run goes on from it"
        ) from error
