"""A model shows here, before it trains, that it is scored and sampled as plain transformers would do it."""
