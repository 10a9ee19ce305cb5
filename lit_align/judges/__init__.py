"""Judges say what makes one response better than another."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
