"""A plan says what memory each phase of a run takes on a device, whether it fits, and what to type instead."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from rich.table import Table
from rich.text import Text

from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule
from lit_align.models.language_model import LanguageModel
from lit_align.models.loading.adapters import LoRA
from lit_align.models.loading.sizes import Shapes, shapes_of
from lit_align.plan import needs
from lit_align.plan.devices import GIB, Devices
from lit_align.plan.needs import Precision, Terms
from lit_align.plan.routes import routes_of
from lit_align.plan.workload import Workload, state_bytes, workload_of
from lit_align.types import Prompts

LIBRARIES = {"cpu": 0.6 * GIB}  # Python, PyTorch, transformers and Lightning once imported, measured
BEYOND = 1.5  # a plan of more than so many times the memory is refused; one of less may be wrong by as much


@dataclass(frozen=True)
class Plan:
    """Counts bytes on one device."""

    shapes: Shapes
    precision: Precision
    work: Workload  # what is done at once
    devices: Devices
    optimizer: float  # bytes that the optimiser keeps for a number that trains
    copies: int = 0  # copies of what trains that the anchor keeps
    momentum: bool = False  # whether the anchor keeps frozen updates of adapters
    checkpointing: bool = False  # whether activations are computed again in the backward pass
    # Bytes of judges that are models, by name; None where the size is not known.
    judges: dict[str, float | None] | None = None

    @cached_property
    def always(self) -> Terms:
        """Return what lies in memory throughout."""
        terms = needs.kept(
            self.shapes,
            self.precision,
            optimizer=self.optimizer,
            copies=self.copies,
            momentum=self.momentum,
            iterations=self.work.iterations,
            shards=self.devices.shards,
            replicas=1 if self.devices.sharded else self.devices.count,
        )
        judges = {f"judge {name}": size for name, size in (self.judges or {}).items() if size is not None}
        mapped = needs.mapped(self.shapes, self.precision) if self.devices.kind == "cpu" else 0.0
        return terms | judges | {"file of weights": mapped, "libraries": LIBRARIES.get(self.devices.kind, 0.0)}

    @cached_property
    def phases(self) -> dict[str, Terms]:
        """Return what each phase needs besides."""
        shapes, precision, work, shards = self.shapes, self.precision, self.work, self.devices.shards
        gathered = needs.gathered(shapes, precision, shards, flat=self.devices.flat)
        phases = {
            "sample": needs.sampling(shapes, precision, work, shards=shards) | gathered,
            "score": needs.scoring(shapes, precision, work) | gathered if work.scores else {},
            "train": needs.training(shapes, precision, work, checkpointing=self.checkpointing, shards=shards),
        }
        if self.devices.kind == "cpu":
            phases["train"]["lost in the heap"] = needs.lost(shapes, precision, work, checkpointing=self.checkpointing)
        return phases

    @property
    def totals(self) -> dict[str, float]:
        """Return the bytes while each phase lasts."""
        throughout = sum(self.always.values())
        return {name: throughout + sum(terms.values()) for name, terms in self.phases.items()}

    @property
    def peak(self) -> float:
        """Return the most bytes at any time."""
        return max(self.totals.values())

    @property
    def share(self) -> float:
        """Return the peak, in units of what the device has; 0 where nobody knows that."""
        return 0.0 if self.devices.memory is None else self.peak / self.devices.memory

    @property
    def fits(self) -> bool:
        """Return whether it does, as far as is known."""
        return self.share <= 1

    def __str__(self) -> str:
        phase = max(self.totals, key=lambda name: self.totals[name])
        place = f"each of {self.devices.count} {self.devices.kind} devices" if self.devices.count > 1 else "the device"
        has = "" if self.devices.memory is None else f" of {gib(self.devices.memory)}"
        return f"memory: {gib(self.peak)}{has} GiB on {place} ({phase}; python -m lit_align plan shows more)"

    def check(self) -> str | None:
        """Refuse a run that cannot fit, and doubt one that may not: a plan is no measurement.

        Returns:
            A warning of one line where the plan is of more than the device has; None where it fits.

        Raises:
            ValueError: The plan is of more than 1.5 times what the device has; the message says what to type instead.
        """
        if self.devices.memory is None or self.fits:
            return None
        phase = max(self.totals, key=lambda name: self.totals[name])
        smaller = [(words, other) for words, other in self.instead() if other.peak < 0.98 * self.peak]
        smaller.sort(key=lambda pair: pair[1].peak)
        advice = ", ".join(f"{words} ({gib(other.peak)})" for words, other in smaller[:5])
        advice = f"try {advice}" if advice else "take a smaller model"
        needs = (
            f"{gib(self.peak)} GiB on a {self.devices.kind} device (to {phase}), which has {gib(self.devices.memory)}"
        )
        if self.share <= BEYOND:
            return f"this run may not fit: it is planned to need {needs}; if memory runs out, {advice}"
        raise ValueError(f"this run needs {needs}: {advice}; --trainer.check_memory false skips this")

    def table(self) -> Table:
        """Return every term, phase by phase."""
        table = Table(title=f"memory on one of {self.devices.count} {self.devices.kind} device(s), GiB")
        table.add_column("")
        for name in ("always", *self.phases):
            table.add_column(name, justify="right")
        rows = {name: [value, *([None] * len(self.phases))] for name, value in self.always.items() if value}
        for column, terms in enumerate(self.phases.values(), start=1):
            for name, value in terms.items():
                if value:
                    rows.setdefault(name, [None] * (1 + len(self.phases)))[column] = value
        for name, values in rows.items():
            table.add_row(Text(name), *("" if value is None else gib(value, 2) for value in values))
        table.add_section()
        table.add_row("total", gib(sum(self.always.values()), 2), *(gib(total, 2) for total in self.totals.values()))
        return table

    def notes(self) -> list[str]:
        """Return what the numbers are about, and what they leave out."""
        work, shapes = self.work, self.shapes
        has = "is not known here: add --memory GIB" if self.devices.memory is None else gib(self.devices.memory)
        lines = [
            f"{shapes.parameters / 1e6:.0f} million parameters, {needs.trainable(shapes) / 1e6:.1f} million of them "
            f"{'added and ' if shapes.adapters else ''}trained; prompts of up to {work.prompt} tokens"
            f"{' (assumed: add --prompt_tokens)' if work.prompt_assumed else ''}, {work.group} responses of up to "
            f"{work.length}, {work.batch} prompts in a minibatch",
            f"peak {gib(self.peak)} GiB; a {self.devices.kind} device has {has}",
        ]
        unknown = [name for name, size in (self.judges or {}).items() if size is None]
        if unknown:
            lines.append(f"not counted: the judge {', '.join(unknown)}, whose config is not on this machine")
        return lines

    def instead(self) -> list[tuple[str, "Plan"]]:
        """Return what else could be typed, and the plan of it, which may or may not be smaller."""
        work = self.work
        batch, group, budget = work.batch // 2, work.group // 2, work.token_budget // 4
        smaller = []
        if batch >= 1:
            smaller.append((f"--data.batch_size {batch}", replace(work, batch=batch)))
        if group >= 2 and work.samples:
            smaller.append((f"--model.sampler.group_size {group}", replace(work, group=group)))
        if budget >= 1024:
            smaller.append((f"--model.sampler.token_budget {budget}", replace(work, token_budget=budget)))
        found = [(words, replace(self, work=less)) for words, less in smaller]
        if not self.checkpointing:
            found.append(("--model.policy.gradient_checkpointing true", replace(self, checkpointing=True)))
        if not self.shapes.adapters:
            found.append(("--model.policy.lora.rank 16", self._with_adapters(quantised=False)))
        if not self.precision.quantised:
            words = "--model.policy.quantization nf4" + ("" if self.shapes.adapters else " --model.policy.lora.rank 16")
            found.append((words, self._with_adapters(quantised=True)))
        if self.devices.kind == "cuda" and not self.devices.sharded:
            devices = replace(self.devices, sharded=True, count=max(8, self.devices.count))
            words = f"-c configs/overlays/fsdp2.yaml --trainer.devices {devices.count}"
            found.append((words, replace(self, devices=devices)))
        return found

    def _with_adapters(self, *, quantised: bool) -> "Plan":
        # Adapters on all linear layers add about rank x (in + out) to each of in x out.
        shapes, precision = self.shapes, replace(self.precision, quantised=quantised, trained=needs.FLOAT)
        if not shapes.adapters:
            per_layer = LoRA().rank * (6 * shapes.hidden + 2 * shapes.query + 2 * shapes.key + 3 * shapes.mlp)
            shapes = replace(shapes, adapters=per_layer * shapes.layers)
        return replace(self, shapes=shapes, precision=precision)


def plan_of(
    module: AlignmentModule,
    data: IterationData,
    devices: Devices,
    *,
    prompts: Prompts | None = None,
    iterations: int = 1,
    prompt_tokens: int | None = None,
) -> Plan:
    """Return the plan of a run; no weights are loaded.

    Args:
        module: An algorithm on a language model.
        data: Its data module.
        devices: Where it runs.
        prompts: Those of the first iteration, if they could be read.
        iterations: Number of iterations of the run.
        prompt_tokens: Longest prompt, instead of that of the first iteration.

    Raises:
        ValueError: The policy is no language model, or one that is not understood.
        FileNotFoundError: Its config is not on this machine.
    """
    policy = module.policy
    if not isinstance(policy, LanguageModel):
        raise ValueError(f"plan is about language models, and the policy is a {type(policy).__name__}: it needs none")
    shapes = shapes_of(policy)
    precision = precision_of(policy, devices.precision)
    trained = torch.float32 if precision.trained == needs.FLOAT else policy.dtype
    return Plan(
        shapes=shapes,
        precision=precision,
        work=workload_of(
            module,
            data,
            prompts,
            routes=routes_of(policy, devices.kind),
            devices=devices.count,
            iterations=iterations,
            prompt_tokens=prompt_tokens,
        ),
        devices=devices,
        optimizer=state_bytes(module, trained),
        copies=module.anchor.copies,
        momentum=module.anchor.has_frozen_update and policy.lora is not None,
        checkpointing=policy.gradient_checkpointing,
        judges={name or judge.name: size for name, judge in module.judges.items() if (size := judge.bytes) != 0},
    )


def precision_of(policy: LanguageModel, trainer: str) -> Precision:
    """Return the bytes of a policy's numbers, by what they are, under a trainer's precision."""
    weight, quantised = policy.dtype.itemsize, policy.quantization is not None
    computed = needs.FLOAT if quantised else weight  # peft keeps norms, and so all between them, in float32
    if trainer.startswith(("bf16", "16")):
        computed = 2
    return Precision(weight, needs.FLOAT if policy.lora is not None else weight, computed, quantised)


def gib(size: float, digits: int = 1) -> str:
    """Return bytes as GiB."""
    return f"{size / GIB:.{digits}f}"
