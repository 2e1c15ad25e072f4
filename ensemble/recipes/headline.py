"""What a run of a recipe is, in one sentence made of what ran, and what differs from the recipe.

Network, weights, tiles, size and epochs can be given on the command line, so no words of a recipe's
file name them: a headline takes them from the configuration that was trained.
"""

from pathlib import Path

from ensemble.training.config import TrialConfig

WEIGHTS = {"imagenet": "ImageNet weights", "none": "random weights"}


def describe_run(what: str, config: TrialConfig, *, weights: str, data: str, changes: str) -> str:
    """A recipe's run in one line.

    Args:
        what: How the recipe trains, in the words of its file.
        config: Configuration of the recipe's base, as it is trained.
        weights: What it starts from, as `name_weights` says it.
        data: Where the tiles come from.
        changes: What `describe_changes` says, or nothing.
    """
    optimisation, size = config.optimisation, config.data.image_size_px
    most = "at most " if optimisation.early_stopping_patience else ""
    epochs = f"{most}{optimisation.epochs} epoch{'s' * (optimisation.epochs != 1)}"
    network = f"{config.model.backbone} from {weights} on {Path(data).name or data}"
    told = f"{network}, {size} × {size} px, {epochs}: {what}"
    return f"{told} (changed from the recipe: {changes})" if changes else told


def describe_changes(
    asked: TrialConfig, config: TrialConfig, *, asked_weights: str, weights: str
) -> str:
    """What the command line changed of a recipe, each as `recipe's → this run's`; "" for nothing.

    Args:
        asked: Configuration of the recipe's base, as its file has it.
        config: Configuration that is trained.
        asked_weights: What the recipe starts from, as `name_weights` says it.
        weights: What the run starts from.
    """
    pairs = (
        (asked.model.backbone, config.model.backbone, ""),
        (asked_weights, weights, ""),
        (asked.data.image_size_px, config.data.image_size_px, " px"),
        (asked.optimisation.epochs, config.optimisation.epochs, " epochs"),
    )
    return ", ".join(f"{was} → {now}{unit}" for was, now, unit in pairs if was != now)


def name_weights(weights: str | Path) -> str:
    """What a network starts from, in words.

    Args:
        weights: `imagenet`, `none`, a file, or the origin that `InitialState` and `run.json` have.
    """
    if isinstance(weights, Path):
        return f"weights of {weights.name}"
    if weights.startswith("weights of "):
        return f"weights of {Path(weights.removeprefix('weights of ')).name}"
    return WEIGHTS.get(weights, weights.partition(" (")[0])
