"""What a run of the benchmark does: sizes, files, machine."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.training.config import TrialConfig, parse_config
from ensemble.training.precision import has_bfloat16

ROOT = Path(__file__).parents[2]
# small ones of several families: the quicker a step, the more does the work around it count
NETWORKS = (
    "timm/regnety_002",
    "resnet18",
    "timm/mobilenetv4_conv_small",
    "timm/tf_efficientnet_lite0",
    "timm/convnextv2_atto",
    "timm/vit_tiny_patch16_224",
)


@dataclass(frozen=True)
class Plan:
    """All that the parts share.

    Attributes:
        scratch: For what is written and thrown away.
        pack_folder: Packed tiles at their full size.
        source: The tiles themselves, a folder.
        backbone: Backbone that is trained.
        weights: State dict to start from, or none.
        image_size_px: Side of the square input.
        batch_size: Tiles in a batch.
        trials: Number of trials of a search.
        epochs: Number of epochs of a trial.
        slots: Trials at a time.
        rounds: How often floor and `fit` are measured in turns.
        small: Whether it only shows that all of it works.
    """

    scratch: Path
    pack_folder: Path
    source: Path
    backbone: str
    weights: Path | None
    image_size_px: int
    batch_size: int
    trials: int
    epochs: int
    slots: int
    rounds: int
    small: bool

    @property
    def device(self) -> torch.device:
        """A GPU, if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def threads(self) -> int:
        """Number of threads of torch in each slot."""
        return max(1, len(os.sched_getaffinity(0)) // self.slots)

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks that are measured beside `backbone`."""
        others = tuple(network for network in NETWORKS if network != self.backbone)
        return others[:1] if self.small else others

    @property
    def binds(self) -> bool:
        """Whether the targets are meant for this machine."""
        return not self.small and has_bfloat16(self.device)

    def pack_as_in_a_run(self, image_size_px: int) -> Path:
        """Pack the tiles at the size at which networks see them, as a run does, where not done yet.

        Returns:
            Folder of the packed tiles.
        """
        packed = pack(
            open_source(self.source),
            under=self.scratch / "packs",
            side_px=image_size_px,
            log=lambda _: None,
        )
        return packed.folder

    def config(
        self,
        *,
        backbone: str | None = None,
        image_size_px: int | None = None,
        precision: str = "auto",
    ) -> TrialConfig:
        """The training run that is measured."""
        values = {
            "model": {"backbone": backbone or self.backbone},
            "optimisation": {
                "epochs": self.epochs,
                "global_batch_size": self.batch_size,
                "precision": precision,
            },
            "data": {"image_size_px": image_size_px or self.image_size_px, "augmentation": 0.5},
        }
        return parse_config(values, where="benchmark")
