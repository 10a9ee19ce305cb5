"""A workload is what a run does at once: the numbers that, with a model's shape, say what memory it takes."""

from dataclasses import dataclass, field

import torch

from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule
from lit_align.plan.routes import Routes
from lit_align.sampling.sampler import prompts_within
from lit_align.types import SCORED, Prompts

ASSUMED_PROMPT = 256  # tokens are assumed where neither the data nor the user say
MANY = 2**20  # nobody has counted the held-out prompts of a set: the token budget is what binds


@dataclass(frozen=True)
class Workload:
    """Counts what is done at once on one device."""

    prompt: int  # longest prompt, tokens
    prompt_assumed: bool  # nobody has said how long it is
    group: int  # responses to a prompt
    length: int  # longest response, tokens
    batch: int  # prompts in one forward and backward pass
    prompts: int  # prompts of an iteration
    heldout: int  # held-out prompts
    token_budget: int  # most tokens in a micro-batch of sampling or scoring
    samples: bool  # whether responses are drawn at all
    scores: bool  # whether they are scored before training
    iterations: int  # number of iterations of the run
    routes: Routes = field(default_factory=Routes)  # which way the model is read and sampled

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
    """Return what a module does at once with its data; :func:`lit_align.plan.plan.plan_of` has the arguments."""
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
    except Exception:  # an optimiser of another device cannot be asked here
        return 2.0 if "8bit" in type(optimizer).__name__ else 2.0 * dtype.itemsize
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in kept if value.numel() > 1) / weight.numel()
