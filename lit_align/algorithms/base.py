"""The default optimiser under the path that configs of version 0.1 have for it: their runs go on."""

from lit_align.iteration.module import adamw as adamw
