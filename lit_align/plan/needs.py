"""Formulas: bytes that each phase of an iteration takes on one device, term by term.

Activations are those that PyTorch keeps for the backward pass of a decoder of the Llama family (RMSNorm, grouped-query
attention without a stored score matrix, gated MLP); other decoders differ by some of the terms.
"""

from dataclasses import dataclass

from lit_align.models.loading.sizes import Shapes
from lit_align.models.scoring.packed import sequences_per_group
from lit_align.plan.workload import Workload

Terms = dict[str, float]
"""Bytes by what they are for."""

FLOAT = 4  # bytes
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # a number; a scale in 8 bits for 64 of them; a float for 256 scales
ROOM = 64  # tokens that the cache of keys and values grows by
LOGITS_AT_ONCE = 2**24  # numbers that the head makes at once while scoring and training
TOKENS_AT_ONCE = 2**12  # of packed groups that are scored at once
HEAD_LOGITS = 2  # copies: the head's output, and what a model that scales or caps makes of it
SAMPLING_LOGITS = 3  # the head's, those of rows that have just begun, and the weights they are drawn by


@dataclass(frozen=True)
class Precision:
    """Bytes of a number.

    Attributes:
        weight: Of the base.
        trained: Of what trains.
        computed: Of activations.
        quantised: The base's linear layers are in NF4.
    """

    weight: int
    trained: int
    computed: int
    quantised: bool = False


def base(shapes: Shapes, precision: Precision) -> float:
    """The weights of the base."""
    if not precision.quantised:
        return float(shapes.parameters * precision.weight)
    # peft makes what is not quantised float32 again.
    return shapes.linear * NF4 + (shapes.parameters - shapes.linear) * FLOAT


def trainable(shapes: Shapes) -> int:
    """Numbers that train."""
    return shapes.adapters or shapes.parameters


def kept(
    shapes: Shapes,
    precision: Precision,
    *,
    optimizer: float,
    copies: int,
    momentum: bool,
    iterations: int,
    shards: int = 1,
    replicas: int = 1,
) -> Terms:
    """What lies in memory throughout.

    Args:
        shapes: Of the model.
        precision: Of its numbers.
        optimizer: Bytes that the optimiser keeps for a number that trains.
        copies: Copies of what trains that the anchor keeps.
        momentum: Whether updates of adapters are folded, whose rank grows with every iteration.
        iterations: Of the run.
        shards: Devices over which it is cut.
        replicas: Devices that have it all; DDP sends gradients in buckets of its own.
    """
    trained = trainable(shapes)
    folded = shapes.adapters * FLOAT * (2 * iterations - 1) if momentum else 0
    terms = {
        "weights": base(shapes, precision),
        "adapters": float(shapes.adapters * precision.trained),
        "reference": 0.0 if shapes.adapters else float(shapes.parameters * precision.weight),
        "gradients": float(trained * precision.trained),
        "gradient buckets": float(trained * precision.trained if replicas > 1 else 0),
        "optimiser": trained * optimizer,
        "anchor": float(folded if momentum else trained * precision.trained * copies),
    }
    return {name: value / shards for name, value in terms.items()}


def gathered(shapes: Shapes, precision: Precision, shards: int, *, flat: bool = False) -> Terms:
    """Sharded weights while sampling and scoring: whole on every device, the reference's too where it is a copy.

    Args:
        shapes: Of the model.
        precision: Of its numbers.
        shards: Devices over which it is cut.
        flat: FSDP1 gathers weights as they are kept, FSDP2 as they are computed with.
    """
    if shards == 1:
        return {}
    one = shapes.parameters * (precision.weight if flat else precision.computed)
    whole = base(shapes, precision) if precision.quantised else one
    return {"gathered weights": float(whole + (0 if shapes.adapters else one))}


def layer_activations(shapes: Shapes, precision: Precision) -> float:
    """What one layer keeps for the backward pass, for one token."""
    full, computed = not shapes.adapters, precision.computed
    # Each norm: its input and its result, in float32 before the scale is applied and as the next layer takes it.
    norms = 2 * shapes.hidden * (FLOAT + computed + (computed if full else 0))
    attention = 5 * shapes.query * computed  # queries, keys and values for all heads, the result as made and as taken
    gate = 4 * shapes.mlp * computed  # gate, its activation, up, their product
    # Adapters in float32 beside narrower weights make their own copy of what comes in.
    inputs = shapes.adapter_inputs / max(1, shapes.trained_layers)
    adapters = inputs * precision.trained if shapes.adapters and precision.trained > computed else 0.0
    return norms + attention + gate + adapters


def training(
    shapes: Shapes, precision: Precision, work: Workload, *, checkpointing: bool = False, shards: int = 1
) -> Terms:
    """Forward and backward pass of one minibatch."""
    tokens = work.batch * read(shapes, work)
    layer = tokens * layer_activations(shapes, precision)
    if checkpointing:
        activations = layer + tokens * shapes.hidden * precision.computed * shapes.layers
    else:
        activations = layer * shapes.trained_layers
    terms = {
        "activations": activations,
        "attention mask": mask(shapes, work, work.batch * parts(shapes, work), precision),
        "logits": head_logits(shapes, precision, work, work.batch),
        "head": head_gradients(shapes, precision, work),
    }
    if shards == 1 and precision.computed < precision.trained:  # autocast keeps what it has cast until the step is done
        terms["autocast weights"] = float(trainable(shapes) * precision.computed)
    if shards > 1:  # FSDP gathers a layer, and the next one meanwhile; the embeddings stay
        embeddings = shapes.parameters - shapes.linear
        terms["gathered layers"] = float((2 * shapes.layer + embeddings) * precision.computed)
    return terms


def head_logits(shapes: Shapes, precision: Precision, work: Workload, rows: int) -> float:
    """Logits of a few tokens at a time, in float32, and as the head makes them."""
    at_once = min(rows * work.predicted * shapes.vocabulary, max(LOGITS_AT_ONCE, shapes.vocabulary))
    narrow = precision.computed if precision.computed < FLOAT else 0
    return float(at_once * (FLOAT * HEAD_LOGITS + narrow))


def head_gradients(shapes: Shapes, precision: Precision, work: Workload) -> float:
    """What the head keeps of each predicted token, and its own gradient where it trains, beside the embeddings'."""
    states = 2 * work.batch * work.predicted * shapes.hidden * precision.computed
    return float(states + (0 if shapes.adapters else 2 * shapes.vocabulary * shapes.hidden * FLOAT))


def scoring(shapes: Shapes, precision: Precision, work: Workload) -> Terms:
    """Log-probs of a micro-batch without gradients."""
    count = parts(shapes, work)
    at_once = max(1, TOKENS_AT_ONCE // (work.prompt + -(-work.group // count) * work.length))
    rows = min(count * work.micro_batch(work.prompts, work.group), at_once)
    tokens = rows * work.packed(count)
    return {
        "activations": float(tokens * (4 * shapes.hidden + 4 * shapes.query + 3 * shapes.mlp) * precision.computed),
        "attention mask": mask(shapes, work, rows, precision),
        "logits": head_logits(shapes, precision, work, -(-rows // count)),
    }


def sampling(shapes: Shapes, precision: Precision, work: Workload, *, shards: int = 1) -> Terms:
    """The key-value cache of a micro-batch, and the logits of one token."""
    prompts = work.micro_batch(work.prompts, work.group) if work.samples else 0
    alone = work.micro_batch(work.heldout, 1) if work.heldout else 0
    rows = max(prompts * work.group, alone)
    own = rows * -(-work.length // ROOM) * ROOM  # beside the prompts', which a group shares
    cached = (max(prompts, alone) * work.prompt + own) * 2 * shapes.key * shapes.layers
    plain = precision.weight == FLOAT and not precision.quantised and shards == 1
    return {
        "merged adapters": float(shapes.adapted * FLOAT if plain else 0),
        "key-value cache": float(cached * precision.computed),
        "logits": float(rows * shapes.vocabulary * FLOAT * SAMPLING_LOGITS),
    }


def parts(shapes: Shapes, work: Workload) -> int:
    """Sequences that a group is read in."""
    return sequences_per_group(work.prompt, work.length, work.group, shapes.hidden)


def read(shapes: Shapes, work: Workload) -> int:
    """Tokens of all sequences of a group."""
    count = parts(shapes, work)
    return count * work.packed(count)


def mask(shapes: Shapes, work: Workload, rows: int, precision: Precision) -> float:
    """Who attends to whom in packed sequences, for each pair of tokens: twice as numbers, thrice as booleans."""
    return float(rows * work.packed(parts(shapes, work)) ** 2 * (2 * precision.computed + 3))
