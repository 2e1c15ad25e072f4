"""An exponential moving average of the weights over the steps of a training run.

The averaging of Polyak and Juditsky (1992, https://doi.org/10.1137/0330046) in the exponential form
that most recipes for image networks use. The decay is lower in the first steps, as in TensorFlow's
`ExponentialMovingAverage` and timm's `ModelEmaV3`, so that the initial weights are soon forgotten.
"""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The average of a network's weights and BatchNorm statistics.

    Args:
        model: The network, on its device.
        decay: Part of the average that stays in each step.
        done_steps: Steps of the run before it was cut.
        weights: The average after these, by name; not read where there were none.
    """

    def __init__(
        self, model: nn.Module, decay: float, *, done_steps: int, weights: dict[str, Tensor]
    ):
        self._decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self._averaged.n_averaged.fill_(done_steps)
        if done_steps:
            self.model.load_state_dict(weights)

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Take the weights after a further step into the average."""
        self._averaged.update_parameters(model)

    def _blend(self, averaged: _Tensors, latest: _Tensors, _: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # counters and indices, which have no mean
            for old, new in zip(averaged, latest, strict=True):
                old.copy_(new)
            return
        steps = int(self._averaged.n_averaged)  # on the CPU, so that no GPU is waited for
        decay = min(self._decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(averaged, latest, steps)
