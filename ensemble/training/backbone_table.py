"""The table of the networks that can be trained. A new one of torchvision's takes a line here.

The command line needs the names, so nothing is imported here that takes long.
"""

from typing import NamedTuple


class Backbone(NamedTuple):
    """What must be known of a network to train it and to see where it looks.

    Attributes:
        last_layer: Name of its last layer, in whose place the head comes; all else is the backbone.
        last_map: Name of the module after which no layer looks at neighbouring places.
        is_channels_last: Whether the output of that module is (B, H, W, C), not (B, C, H, W).
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
