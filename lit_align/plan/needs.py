"""Formulas give the bytes that each phase of an iteration takes on one device, term by term.

Activations are those that PyTorch keeps for the backward pass of a decoder of the Llama family (RMSNorm, grouped-query
attention without a stored score matrix, gated MLP); other decoders differ by some of the terms. Everywhere ``shapes``
are those of the model, ``precision`` is that of its numbers, and ``shards`` are the devices over which it is cut.
"""

from dataclasses import dataclass

from lit_align.models.generation.row_cache import ROOM
from lit_align.models.loading.sizes import Shapes
from lit_align.models.scoring.chunked_head import LOGITS_AT_ONCE
from lit_align.models.scoring.layout import layout_of, responses_per_row
from lit_align.plan.routes import Routes
from lit_align.plan.workload import Workload
from lit_align.utils.out_of_memory import LARGE

Terms = dict[str, float]
"""Terms are bytes, by what they are for."""

FLOAT = 4  # bytes
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # a number; a scale in 8 bits for 64 of them; a float for 256 scales
MOST_APART = 2**25  # bytes: glibc gives larger pieces pages of their own, whatever has been freed before (mallopt(3))
SAMPLING_LOGITS = 3  # the head's, those of rows that have just begun, and the weights they are drawn by


@dataclass(frozen=True)
class Precision:
    """Gives the bytes of a number."""

    weight: int  # bytes of a number of the base
    trained: int  # bytes of a number that trains
    computed: int  # bytes of a number of activations
    quantised: bool = False  # the base's linear layers are in NF4


def base(shapes: Shapes, precision: Precision) -> float:
    """Return the bytes of the base's weights."""
    if not precision.quantised:
        return float(shapes.parameters * precision.weight)
    # peft makes what is not quantised float32 again.
    return shapes.linear * NF4 + (shapes.parameters - shapes.linear) * FLOAT


def trainable(shapes: Shapes) -> int:
    """Return how many numbers train."""
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
    """Return what lies in memory throughout.

    ``optimizer`` bytes are kept for a number that trains, and ``copies`` of what trains by the anchor; with
    ``momentum`` it keeps frozen updates of adapters, whose rank grows with each of the ``iterations``. ``replicas``
    have all of the model: DDP sends gradients in buckets of its own.
    """
    trained = trainable(shapes)
    frozen = shapes.adapters * FLOAT * (2 * iterations - 1) if momentum else 0
    terms = {
        "weights": base(shapes, precision),
        "adapters": float(shapes.adapters * precision.trained),
        "reference": 0.0 if shapes.adapters else float(shapes.parameters * precision.weight),
        "gradients": float(trained * precision.trained),
        "gradient buckets": float(trained * precision.trained if replicas > 1 else 0),
        "optimiser": trained * optimizer,
        "anchor": float(frozen if momentum else trained * precision.trained * copies),
    }
    return {name: value / shards for name, value in terms.items()}


def gathered(shapes: Shapes, precision: Precision, shards: int, *, flat: bool = False) -> Terms:
    """Return sharded weights while sampling and scoring: whole on every device, a copied reference's too.

    FSDP1 (``flat``) gathers weights as they are kept, FSDP2 as they are computed with.
    """
    if shards == 1:
        return {}
    one = shapes.parameters * (precision.weight if flat else precision.computed)
    whole = base(shapes, precision) if precision.quantised else one
    return {"gathered weights": float(whole + (0 if shapes.adapters else one))}


@dataclass(frozen=True)
class Reading:
    """Counts the tokens and sequences that one forward pass reads."""

    tokens: int  # tokens that go through the layers
    queries: int  # rows of queries of the attention, padding included
    keys: int  # rows of keys; a prompt stands before each row of its responses
    pairs: int  # pairs of a query and a key that a mask is about
    predicted: int  # tokens whose log-probs are needed


def reading(shapes: Shapes, work: Workload, prompts: int, *, gradients: bool) -> Reading:
    """Return one forward pass over groups of the longest prompts and responses, on the route that the model takes.

    ``prompts`` is the number of groups; for a backward pass (``gradients``) all are read together.
    """
    unpadded = work.routes.unpadded
    sizes = work.prompt, work.group, work.length, prompts
    layout = layout_of(*sizes, hidden=shapes.hidden, unpadded=unpadded, gradients=gradients)
    groups, size = min(layout.at_once, prompts * layout.parts), -(-work.group // layout.parts)
    slots = work.length - 1  # the last token of a response predicts nothing
    width = work.prompt + size * slots
    tokens, predicted = groups * width, groups * size * work.length
    if not unpadded:
        return Reading(tokens, tokens, tokens, groups * width**2, predicted)
    together = responses_per_row(work.prompt, max(1, slots), size)
    rows, own = groups * -(-size // together), together * slots
    of_prompts = groups * work.prompt
    return Reading(
        tokens,
        queries=of_prompts + rows * own,
        keys=of_prompts + rows * (work.prompt + own),
        pairs=of_prompts * work.prompt + rows * own * (work.prompt + own),
        predicted=predicted,
    )


def layer_activations(shapes: Shapes, precision: Precision, read: Reading, routes: Routes) -> list[float]:
    """Count the bytes that one layer keeps for the backward pass, tensor by tensor."""
    computed, tokens = precision.computed, read.tokens
    # Each norm keeps its input and its result, in float32 before the scale is applied and as the next layer takes it.
    norms = 2 * [tokens * shapes.hidden * FLOAT, tokens * shapes.hidden * computed]
    if not shapes.adapters:
        norms += 2 * [tokens * shapes.hidden * computed]
    shared = routes.unpadded and not routes.repeats_keys  # else each head has keys and values of its own
    keys = read.keys * (shapes.key if shared else shapes.query) * computed
    # These are queries, keys, values, what is made of them, and that in the order of the tokens.
    attention = [*2 * [read.queries * shapes.query * computed], *2 * [keys], tokens * shapes.query * computed]
    gate = 4 * [tokens * shapes.mlp * computed]  # gate, its activation, up, their product
    copies = []
    if shapes.adapters and precision.trained > computed:  # adapters in float32 make their own copy of what comes in
        copies = [tokens * shapes.adapter_inputs / max(1, shapes.trained_layers) * precision.trained]
    return [float(size) for size in (*norms, *attention, *gate, *copies)]


def training(
    shapes: Shapes, precision: Precision, work: Workload, *, checkpointing: bool = False, shards: int = 1
) -> Terms:
    """Return what the forward and backward pass of one minibatch takes."""
    read = reading(shapes, work, work.batch, gradients=True)
    layer = sum(layer_activations(shapes, precision, read, work.routes))
    inputs = float(read.tokens * shapes.hidden * precision.computed * shapes.layers)
    # The peak is where the forward pass ends, in the head, or where the backward pass has reached a layer.
    head: Terms = {"logits": head_logits(shapes, precision, read), "head": head_gradients(shapes, precision, read)}
    back: Terms = {"a layer again": layer if checkpointing else 0.0, "gradients of a layer": layer}
    kept = inputs if checkpointing else layer * shapes.trained_layers
    terms: Terms = {"activations": kept, "attention mask": mask(precision, read)}
    terms |= head if sum(head.values()) > sum(back.values()) else back
    if shards == 1 and precision.computed < precision.trained:  # autocast keeps what it has cast until the step is done
        terms["autocast weights"] = float(trainable(shapes) * precision.computed)
    if shards > 1:  # FSDP gathers a layer, and the next one meanwhile; the embeddings stay
        embeddings = shapes.parameters - shapes.linear
        terms["gathered layers"] = float((2 * shapes.layer + embeddings) * precision.computed)
    return terms


def head_logits(shapes: Shapes, precision: Precision, read: Reading) -> float:
    """Return the bytes of a few tokens' logits, in float32, and as the head makes them.

    A model that scales or caps them makes up to three more of these, which no config tells.
    """
    at_once = min(read.predicted * shapes.vocabulary, max(LOGITS_AT_ONCE, shapes.vocabulary))
    narrow = precision.computed if precision.computed < FLOAT else 0
    return float(at_once * (FLOAT + narrow))


def head_gradients(shapes: Shapes, precision: Precision, read: Reading) -> float:
    """Count the bytes that the head keeps for each predicted token, and those of its gradient where it trains."""
    states = 2 * read.predicted * shapes.hidden * precision.computed
    narrow = precision.trained if precision.trained < FLOAT else 0
    return float(states + (0 if shapes.adapters else shapes.vocabulary * shapes.hidden * (FLOAT + narrow)))


def scoring(shapes: Shapes, precision: Precision, work: Workload) -> Terms:
    """Return what the log-probs of a micro-batch take without gradients."""
    read = reading(shapes, work, work.micro_batch(work.prompts, work.group), gradients=False)
    return {
        "activations": passing(shapes, precision, read.tokens),
        "attention mask": mask(precision, read),
        "logits": head_logits(shapes, precision, read),
    }


def sampling(shapes: Shapes, precision: Precision, work: Workload, *, shards: int = 1) -> Terms:
    """Return the key-value cache of a micro-batch, its prompts while they are read, and the logits of one token."""
    prompts = work.micro_batch(work.prompts, work.group) if work.samples else 0
    alone = work.micro_batch(work.heldout, 1) if work.heldout else 0
    rows, asked = max(prompts * work.group, alone), max(prompts, alone) * work.prompt
    own = rows * -(-work.length // ROOM) * ROOM  # beside the prompts', which a group may share
    cached = ((asked if work.routes.shares_prompts else rows * work.prompt) + own) * 2 * shapes.key * shapes.layers
    plain = precision.weight == FLOAT and not precision.quantised and shards == 1
    return {
        "merged adapters": float(shapes.adapted * FLOAT if plain else 0),
        "key-value cache": float(cached * precision.computed),
        "activations": passing(shapes, precision, asked),
        "logits": float(rows * shapes.vocabulary * FLOAT * SAMPLING_LOGITS),
    }


def passing(shapes: Shapes, precision: Precision, tokens: int) -> float:
    """Return the bytes that are there at once of a layer that keeps nothing."""
    return float(tokens * (4 * shapes.hidden + 4 * shapes.query + 3 * shapes.mlp) * precision.computed)


def mapped(shapes: Shapes, precision: Precision) -> float:
    """Return what was read of the file of weights while they became 4-bit ones: it stays mapped for what did not."""
    return float(shapes.linear * precision.weight if precision.quantised else 0)


def lost(shapes: Shapes, precision: Precision, work: Workload, *, checkpointing: bool = False) -> float:
    """Return the bytes in holes of glibc's heap that nothing fits into, after both passes over a minibatch."""
    # PyTorch asks for aligned memory, for which glibc needs a piece larger than the tensor: a hole that a tensor has
    # left does not take another of its size. Beside an adapted layer three tensors of its result's size come and go
    # (what the base makes, what the adapter makes, that again scaled), and the small one of the adapter's rank is kept
    # between them; two that lie side by side make room for one, so that two thirds are lost. With checkpointing the
    # small ones go too, and their neighbours join: what is lost then is what a layer would have kept.
    # Large tensors have pages of their own and leave no holes, but the tensors of responses that end early are smaller:
    # a minibatch may lose most where some are just not large enough, and that is what counts.
    read = reading(shapes, work, work.batch, gradients=True)
    if checkpointing:
        sizes, apart, part = shapes.layers * layer_activations(shapes, precision, read, work.routes), LARGE, 1.0
    else:
        sizes = [float(read.tokens * width * precision.trained) for width in 3 * shapes.adapter_outputs]
        apart, part = MOST_APART, 2 / 3
    # At these shares of the longest responses some tensors reach that size; 1 is the whole of them.
    shares = {1.0} | {apart / size for size in sizes if size > apart}
    return part * max(share * sum(size for size in sizes if share * size <= apart) for share in shares)


def mask(precision: Precision, read: Reading) -> float:
    """Return the bytes of who attends to whom, for each pair of tokens: twice as numbers, thrice as booleans."""
    return float(read.pairs * (2 * precision.computed + 3))
