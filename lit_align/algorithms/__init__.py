"""Every algorithm is a LightningModule in a file of its own: wiring and no mathematics."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
