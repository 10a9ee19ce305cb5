"""Settings of every kind, in a module that is imported in no time."""

import functools

import torch


class Scale:
    """An object of a user, which holds itself."""

    def __init__(self, factor):
        self.factor, self.own = factor, self

    def times(self, text):
        return self.factor * len(text)


def length(text, weight=1.0):
    return weight * len(text)


def scaled(factor):
    return lambda text: factor * len(text)


ALL = {
    "set": {"good", "bad", "great", "awful"},
    "object": Scale(2),
    "method": Scale(3).times,
    "lambda": scaled(3),
    "partial": functools.partial(length, weight=2.0),
    "tensor": torch.arange(3.0),
    "mapping": {"b": [1, 2.5], "a": None},
}
