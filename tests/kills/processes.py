"""``python -m lit_align`` in processes that may be killed, forked from one that has imported everything."""

import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.conftest import prompts_of, write_jsonl
from tests.kills.places import word_of
from tests.kills.points import HalfWritten, Point
from tests.strategies.two_processes import meeting_point, place

# The server has never run a backward pass and has no threads, which the process of the tests cannot promise.
_IMPORTS = ["lit_align.cli", "transformers.models.llama.modeling_llama", "peft", "datasets", "tests.kills.points"]
ITERATIONS = 3
DIED = "died.json"  # where a process that was killed leaves word of where it was


def lit_align(folder: Path, *arguments: str, point: Point | HalfWritten | None = None) -> int:
    """The exit status; minus the number of the signal that has ended the process.

    Args:
        folder: Has the file of what the judge was asked, and that of what was printed.
        arguments: Of the command line.
        point: Where the process is killed.

    Raises:
        AssertionError: It was killed elsewhere than the point says, or not at all.
    """
    (folder / DIED).unlink(missing_ok=True)
    status = _ended([_started(folder, arguments, point, {})])
    _check_place(folder, point, status)
    return status


def on_two_devices(folder: Path, *arguments: str, point: Point | HalfWritten | None = None, rank: int = 0) -> int:
    """The same of two processes, as torchrun starts them: when one is killed, so is the other.

    Args:
        folder: As above.
        arguments: As above.
        point: Where one of the processes is killed.
        rank: Which one.

    Raises:
        AssertionError: As above.
    """
    (folder / DIED).unlink(missing_ok=True)
    with meeting_point() as port:
        status = _ended([_started(folder, arguments, point if i == rank else None, place(i, port)) for i in range(2)])
    _check_place(folder, point, status)
    return status


def write_config(folder: Path, model: str, **settings: Any) -> str:
    """A config of three iterations, each of two steps of two minibatches; ``settings`` of the module override."""
    init = {
        "beta": 0.2,
        "policy": {"class_path": "LanguageModel", "init_args": {"name": model, "lora": {"rank": 4, "dropout": 0.3}}},
        "judge": {"class_path": "tests.kills.points.Better"},
        "eval_judges": {"same": {"class_path": "tests.kills.points.Better"}},
        "anchor": {"class_path": "Extrapolated", "init_args": {"alpha": 0.5}},
        "sampler": {"group_size": 3, "max_new_tokens": 5, "token_budget": 80},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        "reset_optimizer": False,
        "warmup_steps": 1,
        "schedule": "cosine",
    }
    trainer = {
        "default_root_dir": str(folder / "runs"),
        "max_epochs": ITERATIONS,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "logger": False,
        "accumulate_grad_batches": 2,
        "callbacks": [{"class_path": "lit_align.callbacks.RunRecord", "init_args": {"samples": 0, "export": False}}],
    }
    pools = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(12)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(4, offset=40)),
    }
    data = {"class_path": "PromptPool", "init_args": {"prompts_per_iteration": 4, "batch_size": 1} | pools}
    config = {"trainer": trainer, "model": {"class_path": "WIND", "init_args": init | settings}, "data": data}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def only_run(folder: Path) -> Path:
    """There is one run folder."""
    (run,) = (folder / "runs").iterdir()
    return run


def asked(folder: Path) -> list[str]:
    """All that the judge was ever asked, sorted."""
    path = folder / "asked.txt"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """Weights, optimiser and anchor of the last checkpoint, by name."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return dict(_tensors({name: checkpoint[name] for name in ("state_dict", "optimizer_states", "anchor", "folded")}))


def _tensors(value: Any, name: str = "") -> Any:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(inner, f"{name}.{key}")


def _started(
    folder: Path, arguments: tuple[str, ...], point: Point | HalfWritten | None, environment: dict[str, str]
) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    process = context.Process(target=_main, args=(folder, arguments, point, environment))
    process.start()
    return process


def _ended(processes: list[BaseProcess]) -> int:
    """The exit status of the first to fail, if one does; the others are killed then."""
    while running := [process for process in processes if process.exitcode is None]:
        wait([process.sentinel for process in running])
        for process in running:
            if process.exitcode:
                for other in processes:
                    other.kill()
                    other.join()
                return process.exitcode
    return 0


def _check_place(folder: Path, point: Point | HalfWritten | None, status: int) -> None:
    if point is None:
        return
    found = word_of(folder / DIED)
    assert found is not None, f"the run has ended with status {status} and never came to {point}"
    assert found == point.place, f"killed elsewhere than {point} says\n  it was:   {found}\n  it says: {point.place}"


def _main(
    folder: Path, arguments: tuple[str, ...], point: Point | HalfWritten | None, environment: dict[str, str]
) -> None:
    files = {"ASKED": str(folder / "asked.txt"), "DIED": str(folder / DIED)}
    os.environ |= files | {"TOKENIZERS_PARALLELISM": "false"} | environment
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
    printed = os.open(folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.argv = ["lit_align", *arguments]
    if point is not None:
        point.arm()
    runpy.run_module("lit_align", run_name="__main__", alter_sys=True)
