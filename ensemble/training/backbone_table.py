"""Table of the networks that can be trained: a further one of torchvision's takes a line here.

Nothing slow is imported, as the command line needs the names.
"""

from typing import NamedTuple


class Backbone(NamedTuple):
    """Names of the parts of a network that training and explanation need.

    Attributes:
        last_layer: Name of the last layer, which the head replaces; all else is the backbone.
        last_map: Name of the module after which no layer looks at neighbouring places.
        is_channels_last: Whether the output of `last_map` is (B, H, W, C), not (B, C, H, W).
        filters: Filters of each convolution of a `SmallCNN`; empty for a network of torchvision's.
    """

    last_layer: str
    last_map: str = "features"
    is_channels_last: bool = False
    filters: tuple[int, ...] = ()


BACKBONES = {
    "small_cnn": Backbone("classifier.1", filters=(16, 32, 64)),
    "small_cnn_deep": Backbone("classifier.1", filters=(32, 64, 128, 128, 256)),
    "squeezenet1_1": Backbone("classifier.1"),
    "mobilenet_v2": Backbone("classifier.1"),
    "mobilenet_v3_small": Backbone("classifier.3"),
    "mobilenet_v3_large": Backbone("classifier.3"),
    "resnet18": Backbone("fc", last_map="layer4"),
    "resnet50": Backbone("fc", last_map="layer4"),
    "efficientnet_b0": Backbone("classifier.1"),
    "efficientnet_v2_s": Backbone("classifier.1"),
    "convnext_tiny": Backbone("classifier.2"),
    "swin_v2_t": Backbone("head", last_map="norm", is_channels_last=True),
}
