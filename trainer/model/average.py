"""Mean of all behaviours, whatever the candidate: Covington et al. 2016, section 3.2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainer.model.interest import Interest, Picked, Seen


class Average(Interest):
    """``out = sum over j of x_j / n``."""

    def forward(self, target: Tensor, rows: Tensor, picked: Picked) -> Tensor:
        """Without a copy of the behaviours: rows are summed where they are."""
        listed = np.arange(picked.index.shape[1]) < picked.count[:, None]  # [R, k]
        index = torch.as_tensor(picked.index[listed], device=rows.device)  # [n, F]
        start = torch.as_tensor(np.cumsum(picked.count, dtype=np.int32) - picked.count, device=rows.device)
        columns = [
            functional.embedding_bag(f.contiguous(), rows, start, mode="mean") for f in index.unbind(1)
        ]
        return torch.cat(columns, 1)[torch.as_tensor(picked.of, device=rows.device)]

    def read(self, seen: Seen) -> Tensor:
        n = seen.filled.sum(1, keepdim=True).clamp(min=1)
        return (seen.x.sum(1) / n)[seen.of]
