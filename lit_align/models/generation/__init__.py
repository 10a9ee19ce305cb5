"""Responses are generated here token by token, from a cache of keys and values."""
