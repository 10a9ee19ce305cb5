"""The sampler samples responses from the sampling law, with a random number of its own for each token."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
