"""Losses are pure functions: tensors in, one loss per prompt or pair out. They import nothing else of the package.

:mod:`lit_align.losses.margins` says which arguments the losses of pairs share, :mod:`lit_align.losses.groups` which
those of groups do.
"""
