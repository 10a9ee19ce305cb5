"""A workload is what a run does at once: the numbers that, with a model's shape, say what memory it takes."""

from dataclasses import dataclass, field

import torch

from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule
from lit_align.plan.routes import Routes
from lit_align.sampling.sampler import prompts_within
from lit_align.types import SCORED, Prompts

ASSUMED_PROMPT = 256  # tokens, where neither the data nor the user say
MANY = 2**20  # held-out prompts of a set that nobody has counted: the token budget is what binds


@dataclass(frozen=True)
class Workload:
    """Counts what is done at once on one device.

    Attributes:
        prompt: Longest prompt, tokens.
        prompt_assumed: Nobody has said how long it is.
        group: Responses to a prompt.
        length: Longest response, tokens.
        batch: Prompts in one forward and backward pass.
        prompts: Prompts of an iteration.
        heldout: Held-out prompts.
        token_budget: Most tokens in a micro-batch of sampling or scoring.
        samples: Whether responses are drawn at all.
        scores: Whether they are scored before training.
        iterations: Number of iterations of the run.
        routes: Which way the model is read and sampled.
    """

    prompt: int
    prompt_assumed: bool
    group: int
    length: int
    batch: int
    prompts: int
    heldout: int
    token_budget: int
    samples: bool
    scores: bool
    iterations: int
    routes: Routes = field(default_factory=Routes)

    def micro_batch(self, prompts: int, group: int) -> int:
        """Return the prompts in the largest micro-batch of sampling or scoring."""
        return min(prompts, prompts_within(self.token_budget, (self.prompt + self.length) * group))


def workload_of(
    module: AlignmentModule,
    data: IterationData,
    prompts: Prompts | None,
    *,
    routes: Routes,
    devices: int = 1,
    iterations: int = 1,
    prompt_tokens: int | None = None,
) -> Workload:
    """Return what a module does at once with its data.

    Args:
        module: The algorithm; nothing of it is loaded.
        data: Its data module.
        prompts: Those of the first iteration, if they could be read.
        routes: Routes of its policy.
        devices: Number of devices that an iteration is dealt to.
        iterations: Number of iterations of the run.
        prompt_tokens: Longest prompt, instead of looking.
    """
    sampler = module.sampler
    group, length = sampler.group_size, sampler.max_new_tokens
    longest = prompt_tokens
    if prompts is not None:
        longest = longest or int(prompts.mask.sum(1).max())
        given = data.given_lengths(prompts)
        if given is not None:
            group, length = given.shape[1], int(given.max())
    heldout = 0 if data.sources["heldout"] is None else data.heldout_limit or MANY
    return Workload(
        prompt=longest or ASSUMED_PROMPT,
        prompt_assumed=longest is None,
        group=group,
        length=length,
        batch=data.batch_size,
        prompts=-(-data.prompts_per_iteration // devices),
        heldout=-(-heldout // devices),
        token_budget=sampler.token_budget,
        samples=not data.gives,
        scores=bool(module.needs & set(SCORED)),
        iterations=iterations,
        routes=routes,
    )


def state_bytes(module: AlignmentModule, dtype: torch.dtype) -> float:
    """Return the bytes that the module's optimiser keeps for a number that trains, by a step on a small matrix."""
    weight = torch.nn.Parameter(torch.zeros(256, 256, dtype=dtype))
    weight.grad = torch.zeros_like(weight)
    optimizer = module.optimizer([weight])
    history = optimizer.defaults.get("history_size")
    if history is not None:  # LBFGS: two vectors for each step it remembers, and three of its own
        return float(dtype.itemsize * (2 * history + 3))
    try:
        optimizer.step()
    except Exception:  # an optimiser of another device: it cannot be asked here
        return 2.0 if "8bit" in type(optimizer).__name__ else 2.0 * dtype.itemsize
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in kept if value.numel() > 1) / weight.numel()
