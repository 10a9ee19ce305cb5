"""The network of PairRM has the names of its checkpoint; what is compared is laid out in `pair_rm`.

[1] D. Jiang, X. Ren, B. Y. Lin, "LLM-Blender: Ensembling Large Language Models with Pairwise Ranking and Generative
    Fusion", ACL 2023, arXiv:2306.02561.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DebertaV2Model, DebertaV2PreTrainedModel


class PairRanker(DebertaV2PreTrainedModel):
    """Reads a prompt and two candidates together with a DeBERTa encoder, and scores each candidate with a head.

    Args:
        config: A config of DeBERTa with ``n_tasks``, the number of scores that the head gives; their mean counts.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        hidden = config.hidden_size
        self.pretrained_model = DebertaV2Model(config)
        # Dropout is part of the checkpoint's numbering (head_layer.1, head_layer.4); a judge never trains.
        self.head_layer = nn.Sequential(
            nn.Dropout(0.0),
            nn.Linear(2 * hidden, hidden),
            nn.Tanh(),
            nn.Dropout(0.0),
            nn.Linear(hidden, config.n_tasks),
        )
        self.post_init()

    def forward(
        self, ids: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"], markers: Int[Tensor, "batch 3"]
    ) -> Float[Tensor, " batch"]:
        """Return the score of the first candidate less that of the second, as a logit of the first one's win.

        Args:
            ids: Token ids, padded on the right.
            mask: True on tokens.
            markers: Columns of the markers of the prompt, the first and the second candidate.
        """
        states = self.pretrained_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        prompt, first, second = (states[rows, column] for column in markers.unbind(1))
        scores = [self.head_layer(torch.cat([prompt, candidate], dim=-1)) for candidate in (first, second)]
        logits: Tensor = (scores[0] - scores[1]).float().mean(-1)
        return logits
