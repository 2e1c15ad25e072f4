"""Names of the networks that can be trained, and a table of our own and torchvision's.

A further one of torchvision's takes a line here. Every network of timm's is one by the name
`timm/MODEL` or `timm/MODEL.TAG`; what training needs to know of it is worked out by
`timm_networks.py`. Nothing slow is imported for the other names, as the command line needs them.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ensemble.data.view import IMAGENET_MEAN, IMAGENET_STD, Colour, Interpolation

TIMM = "timm/"
NUM_NEAREST = 3  # names that are offered in place of an unknown one
LEAST_LIKENESS = 0.8  # of those that are only spelt alike, from 0 to 1
TESTS = "timm/test_"  # networks of timm's for its own tests


class Backbone(NamedTuple):
    """Names of the parts of a network that training and explanation need, and what it is fed."""

    last_layers: tuple[str, ...]  #: that give the logits: the head; all else is the backbone
    million_multiply_adds: int  #: of the forward pass of one image of `counted_side_px`
    last_map: str = "features"  #: the module after which no layer looks at neighbouring places
    layout: Literal["NCHW", "NHWC", "NLC"] = "NCHW"  #: axes of its output; L are tokens, by row
    num_prefix_tokens: int = 0  #: tokens before those of the image's places
    filters: tuple[int, ...] = ()  #: of each convolution of a `SmallCNN`; none of others
    counted_side_px: int = 224
    mean: Colour = IMAGENET_MEAN  #: of the pixels that it was trained on, from 0 to 1
    std: Colour = IMAGENET_STD
    interpolation: Interpolation = "bilinear"  #: by which pictures were resized in that training

    def forecast_multiply_adds(self, side_px: int) -> float:
        """Millions for an image of another side; they grow about as its pixels do."""
        return self.million_multiply_adds * (side_px / self.counted_side_px) ** 2

    def in_head(self, name: str) -> bool:
        """Say whether a parameter or tensor of this name belongs to the head."""
        return name.startswith(tuple(f"{layer}." for layer in self.last_layers))


BACKBONES = {
    "small_cnn": Backbone(("classifier.1",), 137, filters=(16, 32, 64)),
    "small_cnn_deep": Backbone(("classifier.1",), 679, filters=(32, 64, 128, 128, 256)),
    "squeezenet1_1": Backbone(("classifier.1",), 263),
    "mobilenet_v2": Backbone(("classifier.1",), 299),
    "mobilenet_v3_small": Backbone(("classifier.3",), 55),
    "mobilenet_v3_large": Backbone(("classifier.3",), 215),
    "resnet18": Backbone(("fc",), 1814, last_map="layer4"),
    "resnet50": Backbone(("fc",), 4087, last_map="layer4"),
    "efficientnet_b0": Backbone(("classifier.1",), 385),
    "efficientnet_v2_s": Backbone(("classifier.1",), 2849),
    "convnext_tiny": Backbone(("classifier.2",), 4455),
    "swin_v2_t": Backbone(("head",), 4938, last_map="norm", layout="NHWC"),
}


def check_backbone(name: str) -> str:
    """Return the name of a network, if there is one of that name.

    Raises:
        ValueError: There is none; the names that are most like it are given.
    """
    nearest = suggest_backbones(name)
    if nearest is None:
        return name
    raise ValueError(
        f"must be a backbone: {', '.join(nearest or BACKBONES)} or another one that `backbones` "
        "lists"
    )


def suggest_backbones(name: str) -> list[str] | None:
    """Return the backbones that an unknown name may stand for; None where there is one of the name.

    Raises:
        ValueError: It is none of the table's, and timm cannot be imported.
    """
    if name in BACKBONES:
        return None
    try:
        # seconds, as it imports torch; names of the table need it not
        from ensemble.training.timm_networks import list_networks
    except ImportError as error:
        raise ValueError(
            f"must be one of {', '.join(BACKBONES)}, as timm cannot be imported ({error})"
        ) from None
    of_timm = list_networks()
    return None if name in of_timm else find_nearest(name, [*BACKBONES, *of_timm])


def find_nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return the names that a mistyped or shortened one may stand for, the likeliest first.

    Signs between words and capitals do not count. Names that hold it, or whose words begin as its
    own do, come before those that are merely spelt alike. Tags are given where it has a dot.
    """
    wanted, words = _letters(name), _words(name)
    known = [
        one
        for one in names
        if ("." in name or "." not in one) and ("test" in name or TESTS not in one)
    ]
    meant = [one for one in known if wanted in _letters(one) or _abbreviates(words, _words(one))]
    meant = meant if wanted else []

    def rank(one: str) -> tuple[bool, bool, bool, int, str]:
        letters, is_kin = _letters(one), one.startswith(TIMM) == name.startswith(TIMM)
        return letters != wanted, not is_kin, not letters.startswith(wanted), len(letters), one

    spelt: dict[str, list[str]] = {}
    for one in known:
        spelt.setdefault(_letters(one), []).append(one)
    alike = difflib.get_close_matches(wanted, spelt, NUM_NEAREST, LEAST_LIKENESS)
    nearest = [*sorted(meant, key=rank), *(one for letters in alike for one in spelt[letters])]
    return [*dict.fromkeys(nearest)][:NUM_NEAREST]


def _letters(name: str) -> str:
    """A name's letters and digits alone."""
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    """A name's runs of letters and of digits."""
    return re.findall(r"[a-z]+|[0-9]+", name.lower().removeprefix(TIMM))


def _abbreviates(words: Iterable[str], whole: Iterable[str]) -> bool:
    """Whether words begin some of a name's words, in their order: `vit b 16`."""
    rest = iter(whole)
    return all(any(one.startswith(word) for one in rest) for word in words)


def find_backbone(name: str) -> Backbone:
    """Return the names of a network's parts, and what it is fed.

    Args:
        name: A name that `check_backbone` knows.

    Raises:
        InputError: It is a network of timm's that cannot be a backbone.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    from ensemble.training.timm_networks import describe_network

    return describe_network(name)


def name_pretrained(backbone: str) -> str:
    """Say what `imagenet` means for a backbone; timm's default weights may be of other pictures."""
    return "pretrained weights" if backbone.startswith(TIMM) else "ImageNet weights"


def name_weights_file(backbone: str) -> str:
    """The name of the file in which a run keeps what a backbone starts from."""
    return f"{backbone.replace('/', '-')}.safetensors"
