"""Two processes that torchrun might have started, on CPU with gloo: what the tests of strategies run in."""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed
import torch.multiprocessing

# What takes seconds to import is imported once, in the server that all processes are forked from. It has never run a
# backward pass and has no threads, which the process of the tests cannot promise.
_IMPORTS = ["lit_align.cli", "transformers", "transformers.models.llama.modeling_llama", "peft", "tests.tiny_runs"]
WORLD_SIZE = 2


def on_two_processes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on rank 0 and on rank 1.

    ``Trainer(accelerator="cpu", devices=2, strategy="ddp")`` finds its place there as under torchrun. An exception in
    either process is raised here, with its traceback.

    Args:
        function: At the top of a module, since its name is what the processes are given.
        arguments: Whatever can be pickled.
    """
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    with tempfile.TemporaryDirectory() as folder, meeting_point() as port:
        torch.multiprocessing.start_processes(
            _in_process,
            args=(Path(folder), port, function, arguments),
            nprocs=WORLD_SIZE,
            start_method="forkserver",
        )
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(WORLD_SIZE)]


def _in_process(rank: int, folder: Path, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= place(rank, port) | {"TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    result = function(*arguments)
    (folder / str(rank)).write_bytes(pickle.dumps(result))


def place(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process by its environment."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(WORLD_SIZE),
        "LOCAL_WORLD_SIZE": str(WORLD_SIZE),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "two-processes",  # how Lightning knows torchrun
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # `meeting_point`
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


@contextmanager
def meeting_point() -> Iterator[int]:
    """The port of the store where the processes find each other: as under torchrun it is open before they start.

    Were it one that is free now, for the first of them to open, anybody could take it meanwhile.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield store.port
