"""Language models are policies here: they are loaded, sampled from, scored and exported."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
