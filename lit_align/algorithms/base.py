"""The default optimiser is found here by configs of version 0.1, whose runs go on."""

from lit_align.iteration.module import adamw as adamw
