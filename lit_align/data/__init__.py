"""Data modules hold the prompts that are answered, and responses that are there already."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
