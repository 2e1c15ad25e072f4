"""Table of the networks that can be trained: a further one of torchvision's takes a line here.

Nothing slow is imported, as the command line needs the names.
"""

from typing import NamedTuple


class Backbone(NamedTuple):
    """Names of the parts of a network that training and explanation need."""

    last_layer: str  #: the layer that the head replaces; all else is the backbone
    last_map: str = "features"  #: the module after which no layer looks at neighbouring places
    is_channels_last: bool = False  #: whether its output is (B, H, W, C), not (B, C, H, W)
    filters: tuple[int, ...] = ()  #: of each convolution of a `SmallCNN`; none of torchvision's


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
