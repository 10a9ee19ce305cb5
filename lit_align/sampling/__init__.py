"""Drawing responses: the sampler, the sampling law, and the random numbers behind each token."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
