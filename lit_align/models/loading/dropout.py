"""The base trains without dropout: a preference is a difference of log-probs, and noise in them is all it would learn.

Policy and anchor are the same network as an iteration begins, so that every log-ratio is 0 there; dropout of the base
would add nats of noise to each. The adapters' own dropout is theirs, and stays.
"""

import copy
from typing import Any

from torch import nn

_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def without_dropout(config: Any) -> Any:
    """Return a copy of a model's config whose dropout, layer dropout and router noise are 0."""
    quiet = copy.deepcopy(config)
    _silence(vars(quiet))
    return quiet


def without_dropout_modules(model: Any) -> Any:
    """Set dropout that the config does not tell of to 0 as well, and return the same model."""
    for module in model.modules():
        if isinstance(module, _MODULES):
            module.p = 0.0
    return model


def _silence(options: dict[Any, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, dict):
            _silence(value)
        elif hasattr(value, "to_dict"):  # a part, such as the language tower, has a config of its own
            _silence(vars(value))
        elif isinstance(value, float) and ("drop" in str(name) or "jitter" in str(name)):
            options[name] = 0.0
