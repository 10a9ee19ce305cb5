"""Before it trains, a model is shown here to be scored and sampled as plain transformers would do it."""
