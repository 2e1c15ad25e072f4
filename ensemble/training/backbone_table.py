"""Table of the networks that can be trained: a further one of torchvision's takes a line here.

Nothing slow is imported, as the command line needs the names.
"""

from typing import NamedTuple

from ensemble.data.view import IMAGENET_MEAN, IMAGENET_STD, Colour, Interpolation


class Backbone(NamedTuple):
    """Names of the parts of a network that training and explanation need."""

    last_layer: str  #: the layer that the head replaces; all else is the backbone
    million_multiply_adds: int  #: of the forward pass of one image of 224 px
    last_map: str = "features"  #: the module after which no layer looks at neighbouring places
    is_channels_last: bool = False  #: whether its output is (B, H, W, C), not (B, C, H, W)
    mean: Colour = IMAGENET_MEAN  #: of the pixels that it was trained on, from 0 to 1
    std: Colour = IMAGENET_STD
    interpolation: Interpolation = "bilinear"  #: by which pictures were resized in that training
    filters: tuple[int, ...] = ()  #: of each convolution of a `SmallCNN`; none of torchvision's


BACKBONES = {
    "small_cnn": Backbone("classifier.1", 137, filters=(16, 32, 64)),
    "small_cnn_deep": Backbone("classifier.1", 679, filters=(32, 64, 128, 128, 256)),
    "squeezenet1_1": Backbone("classifier.1", 263),
    "mobilenet_v2": Backbone("classifier.1", 299),
    "mobilenet_v3_small": Backbone("classifier.3", 55),
    "mobilenet_v3_large": Backbone("classifier.3", 215),
    "resnet18": Backbone("fc", 1814, last_map="layer4"),
    "resnet50": Backbone("fc", 4087, last_map="layer4"),
    "efficientnet_b0": Backbone("classifier.1", 385),
    "efficientnet_v2_s": Backbone("classifier.1", 2849),
    "convnext_tiny": Backbone("classifier.2", 4455),
    "swin_v2_t": Backbone("head", 4938, last_map="norm", is_channels_last=True),
}
