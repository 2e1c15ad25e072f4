"""Initial weights of a backbone: those of ImageNet or of a file, or random ones.

They are made once per search, with a head drawn from the study's seed, and written to the run's
folder: all trials of a backbone start from the same bits, and only the search reads them elsewhere.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import atomic_write, read_object
from ensemble.training.backbone_table import (
    BACKBONES,
    TIMM,
    check_backbone,
    find_backbone,
    name_pretrained,
    name_weights_file,
)
from ensemble.training.backbones import build_model
from ensemble.training.config import derive_seed
from ensemble.training.weights_file import (
    COUNTER,
    name_first,
    put_statistics_last,
    read_weights,
)


@dataclass(frozen=True)
class InitialState:
    """Initial weights of all trials of a backbone."""

    tensors: dict[str, Tensor]  #: complete state of the network, head included
    origin: str  #: source of the weights, for people
    digest: str  #: SHA-256 of names, types, shapes and bytes
    note: str = ""  #: what was ignored in a file, for people

    def describe(self) -> str:
        """Describe the source of the weights and what was ignored in it."""
        return f"{self.origin} ({self.note})" if self.note else self.origin


def parse_weights(given: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str | Path]:
    """Return what `--weights` says for each backbone: `imagenet`, `none` or a file.

    Args:
        given: Words of the option: WHAT for all backbones, or BACKBONE=WHAT.
        defaults: Backbone → its weights if none are given.

    Raises:
        InputError: A backbone is none of `defaults`, or a file is given for several.
    """
    weights: dict[str, str | Path] = dict(defaults)
    for text in sorted(given, key=lambda text: "=" in text):  # the general ones first
        backbone, equals, what = text.rpartition("=")
        if equals and backbone not in weights:
            names = ", ".join(defaults)
            raise InputError(f"--weights {text}: {_why_unused(backbone)} (there is {names})")
        value: str | Path = what if what in ("imagenet", "none") else Path(what)
        if isinstance(value, Path) and not equals and len(weights) > 1:
            raise InputError(f"--weights {text}: name the backbone: --weights BACKBONE={what}")
        for name in [backbone] if equals else list(weights):
            weights[name] = value
    return weights


def _why_unused(backbone: str) -> str:
    try:
        check_backbone(backbone)
    except ValueError:
        return f"{backbone!r} is an unknown backbone"
    return f"{backbone!r} is not in use here"


def make_initial_state(backbone: str, weights: str | Path, *, seed: int) -> InitialState:
    """Make the initial weights of a backbone.

    Args:
        backbone: Name of the backbone.
        weights: `imagenet` (the download of torchvision's, or of the hub's for timm), `none`, or a
            file of tensors in torchvision's or timm's names (.safetensors, or a state dict or
            checkpoint that `torch.load` reads with `weights_only=True`).
        seed: Seed of the study; draws the head, which is never that of a file, and the rest if
            `weights` is `none`.

    Raises:
        InputError: There is no network, there are no such weights, or the file does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed devices that nothing is drawn on, and keep a stack for each
        torch.default_generator.manual_seed(derive_seed(seed, "initial weights", backbone))
        model = build_model(backbone)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    note = ""
    if weights == "none":
        origin = "random weights"
    elif weights == "imagenet":
        name, loaded = _download(backbone)
        _fit(tensors, loaded, backbone, f"{name_owner(backbone)}'s weights")
        origin = f"{name_pretrained(backbone)} ({name})"
    else:
        loaded, note = read_weights(Path(weights), _needed(tensors, backbone), backbone=backbone)
        _fit(tensors, loaded, backbone, f"weights file {weights}")
        origin = f"weights of {weights}"
    return InitialState(tensors, origin, digest_tensors(tensors), note)


def announce_download(backbone: str) -> str:
    """Say that pretrained weights are about to be read, which may take minutes."""
    return f"{backbone}: {name_pretrained(backbone)}, downloaded unless they are here already"


def find_weights(backbone: str) -> Literal["here", "to download", "none"]:
    """Say where the pretrained weights of a backbone are."""
    if backbone.startswith(TIMM):
        from ensemble.training import timm_networks

        return timm_networks.find_weights(backbone)
    if BACKBONES[backbone].filters:
        return "none"
    from torchvision.models import get_model_weights

    file = Path(get_model_weights(backbone).DEFAULT.url).name
    is_here = (Path(torch.hub.get_dir()) / "checkpoints" / file).exists()
    return "here" if is_here else "to download"


def find_licence(backbone: str) -> str:
    """Name the licence of the pretrained weights of a backbone; "" where nobody names one."""
    if not backbone.startswith(TIMM):
        return ""  # torchvision leaves it to the data sets that its weights were trained on
    from ensemble.training import timm_networks

    return timm_networks.find_licence(backbone)


def _download(backbone: str) -> tuple[str, Mapping[str, Tensor]]:
    """Return the name that torchvision or timm gives to weights of a backbone, and the weights."""
    if backbone.startswith(TIMM):
        from ensemble.training.timm_networks import download_weights

        name, tensors = download_weights(backbone)
        in_head = find_backbone(backbone).in_head
        return name, {key: tensor for key, tensor in tensors.items() if not in_head(key)}
    if BACKBONES[backbone].filters:
        raise InputError(f"{backbone} has no ImageNet weights; say --weights {backbone}=none")
    from torchvision.models import get_model_weights

    weights = get_model_weights(backbone).DEFAULT
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch announces the address there
            return str(weights), weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download the ImageNet weights of {backbone} ({error}); without a network say "
            f"--weights {backbone}=FILE, --weights none to start from random ones, or --backbone "
            "NAME for another one"
        ) from None


def _fit(
    tensors: dict[str, Tensor], loaded: Mapping[str, Tensor], backbone: str, where: str
) -> None:
    """Put `loaded` into `tensors` but for its head; all of the backbone must be in it."""
    faults = _find_faults(tensors, loaded, backbone)
    if faults and backbone.startswith(TIMM):
        from ensemble.training.timm_networks import adapt_tensors

        adapted = adapt_tensors(backbone, loaded)
        if not _find_faults(tensors, adapted, backbone):
            loaded, faults = adapted, []
    if faults:
        raise InputError(
            f"{where}: does not fit {backbone}: {'; '.join(faults)}; give weights of {backbone} in "
            f"{name_owner(backbone)}'s names"
        )
    in_head = find_backbone(backbone).in_head
    for name, tensor in loaded.items():
        if in_head(name):
            continue  # it answers another question, or this one on other photographs
        try:
            if tensor.is_meta or tensor.is_complex() or tensor.layout != torch.strided:
                raise TypeError
            numbers = tensor.detach().to(tensors[name].dtype, copy=True).contiguous()
        except (RuntimeError, TypeError):  # bits, packed or quantised numbers
            raise InputError(f"{where}: {name!r} holds no plain real numbers") from None
        if not torch.isfinite(numbers).all():
            raise InputError(f"{where}: {name!r} holds infinite numbers or none (NaN)")
        tensors[name] = numbers


def _find_faults(
    tensors: Mapping[str, Tensor], loaded: Mapping[str, Tensor], backbone: str
) -> list[str]:
    """List what of the backbone is missing in `loaded`, unknown, or of another shape."""
    in_head = find_backbone(backbone).in_head
    unknown = put_statistics_last(n for n in loaded if n not in tensors and not in_head(n))
    missing = put_statistics_last(n for n in _needed(tensors, backbone) if n not in loaded)
    wrong = [
        f"{name!r} has the shape {tuple(loaded[name].shape)}, expected {tuple(tensors[name].shape)}"
        for name in put_statistics_last(tensors)
        if name in loaded and not in_head(name) and loaded[name].shape != tensors[name].shape
    ]
    return [
        *([f"it has no {name_first([repr(name) for name in missing])}"] if missing else []),
        *([f"it has the unknown {name_first(list(map(short_repr, unknown)))}"] if unknown else []),
        *([name_first(wrong)] if wrong else []),
    ]


def name_owner(backbone: str) -> str:
    """Say whose names the tensors of a backbone have."""
    if backbone.startswith(TIMM):
        return "timm"
    return "this project" if BACKBONES[backbone].filters else "torchvision"


def _needed(tensors: Iterable[str], backbone: str) -> list[str]:
    """List the names that a file must have: the backbone's, but counters that older files lack."""
    in_head = find_backbone(backbone).in_head
    return [name for name in tensors if not in_head(name) and not name.endswith(COUNTER)]


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_initial_state(state: InitialState, path: Path) -> None:
    """Write the initial weights of a backbone."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(state.tensors))


def read_initial_state(folder: Path, backbone: str) -> InitialState:
    """Read the initial weights of a backbone from the folder `initial` of a run.

    Raises:
        InputError: The run has none of this backbone, or they are damaged.
    """
    about = read_object(folder / "states.json").get(backbone)
    if not isinstance(about, dict) or not {"origin", "digest"} <= about.keys():
        raise InputError(f"{folder}: has no initial weights of {backbone}")
    path = folder / name_weights_file(backbone)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: damaged ({error}); search again") from None
    state = InitialState(tensors, str(about["origin"]), digest_tensors(tensors))
    if state.digest != about["digest"]:
        raise InputError(f"{path}: damaged (its digest is not that of states.json); search again")
    return state
