"""A sentence that names what a run of a recipe trained, and what differs from the recipe.

Network, weights, tiles, size and epochs can be given on the command line. So no words of a recipe's
file name them; the sentence takes them from the configuration that was trained.
"""

from pathlib import Path

from ensemble.base.wording import plural
from ensemble.training.backbone_table import name_pretrained
from ensemble.training.config import TrialConfig


def describe_run(
    what: str,
    asked: TrialConfig,
    config: TrialConfig,
    *,
    asked_weights: str | Path,
    weights: str | Path,
    data: str,
) -> str:
    """Describe a recipe's run in one line.

    `what` is the kind of training, in the words of the recipe's file. `asked` and `asked_weights`
    are those of the file, `config` and `weights` those of the run; `name_weights` names weights.
    """
    optimisation = config.optimisation
    most = "at most " if optimisation.early_stopping_patience else ""
    epochs = most + plural(optimisation.epochs, "epoch")
    backbone = config.model.backbone
    network = f"{backbone} from {name_weights(weights, backbone)} on {Path(data).name or data}"
    run = f"{network}, {config.data.describe_size()}, {epochs}: {what}"
    changes = describe_changes(asked, config, asked_weights=asked_weights, weights=weights)
    return f"{run} (changed from the recipe: {changes})" if changes else run


def describe_changes(
    asked: TrialConfig, config: TrialConfig, *, asked_weights: str | Path, weights: str | Path
) -> str:
    """List what differs from a recipe, each as `recipe's → this run's`; "" for nothing."""
    pairs = (
        (asked.model.backbone, config.model.backbone, ""),
        (
            name_weights(asked_weights, asked.model.backbone),
            name_weights(weights, config.model.backbone),
            "",
        ),
        (asked.data.image_size_px, config.data.image_size_px, " px"),
        (asked.data.context_px, config.data.context_px, " px of context"),
        (asked.optimisation.epochs, config.optimisation.epochs, " epochs"),
    )
    return ", ".join(f"{was} → {now}{unit}" for was, now, unit in pairs if was != now)


def name_weights(weights: str | Path, backbone: str) -> str:
    """Name the weights that a network starts from.

    Args:
        weights: `imagenet`, `none`, a file, or the origin that `InitialState` and `run.json` have.
        backbone: Name of the network.
    """
    if isinstance(weights, Path):
        return f"weights of {weights.name}"
    if weights.startswith("weights of "):
        return f"weights of {Path(weights.removeprefix('weights of ')).name}"
    names = {"imagenet": name_pretrained(backbone), "none": "random weights"}
    return names.get(weights, weights.partition(" (")[0])
