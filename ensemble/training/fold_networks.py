"""The networks of a cross-fitted member, which are one network to everybody else."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FoldNetworks(nn.Module):
    """Networks of one configuration, of which each left out another fold.

    Args:
        networks: (B, 3, S, S) → (B, 2) each, in the order of the folds.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def keep(self, count: int) -> nn.Module:
        """The networks of the first `count` folds; of one fold its network itself."""
        return self.networks[0] if count == 1 else FoldNetworks([*self.networks[:count]])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 2), whose difference is the mean of the networks' differences."""
        logits = torch.stack([network(images).float() for network in self.networks])
        margins = (logits[:, :, 1] - logits[:, :, 0]).mean(0)
        return torch.stack([torch.zeros_like(margins), margins], dim=1)


def state_of_first(state: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The state of `FoldNetworks.keep(count)`, from that of the networks of all folds."""
    kept = {}
    for name, tensor in state.items():
        _, number, own_name = name.split(".", 2)  # networks.0.features.0.weight
        if int(number) < count:
            kept[own_name if count == 1 else name] = tensor
    return kept
