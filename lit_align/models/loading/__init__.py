"""How weights, tokenizers and adapters are found and loaded, and how large they are."""
