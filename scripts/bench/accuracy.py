"""Whether what makes training quick costs accuracy: the same runs without it, over five seeds."""

import statistics

import torch
from torch import Tensor, multiprocessing

from bench.plan import Plan
from bench.row import Row
from ensemble.base.process import keep_freed_memory
from ensemble.data import batches
from ensemble.data.augmentation import move_on_gpu
from ensemble.training.backbones import build_configured
from ensemble.training.initial_weights import make_initial_state
from ensemble.training.loop import fit
from ensemble.training.member import DevelopmentTiles

SEEDS = range(5)


def measure(plan: Plan) -> list[Row]:
    """Validation AP of the last epoch, ours − plain torch (its affine maps, float32), by seed."""
    seeds = SEEDS[:2] if plan.small else SEEDS
    tasks = [(seed, plain) for seed in seeds for plain in (False, True)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(plan.slots, maxtasksperchild=1) as pool:
        found = dict(
            zip(tasks, pool.starmap(_train, [(plan, *task) for task in tasks]), strict=True)
        )
    ours, plain = [found[seed, False] for seed in seeds], [found[seed, True] for seed in seeds]
    differences = [a - b for a, b in zip(ours, plain, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    mean = statistics.mean
    return [
        Row("accuracy", f"validation AP of ours, mean of {len(seeds)} seeds", mean(ours), "AP"),
        Row("accuracy", "… of plain torch, the same seeds", mean(plain), "AP"),
        Row("accuracy", "ours − plain, mean of pairs", mean(differences), "AP"),
        Row("accuracy", "its standard error", error, "AP"),
    ]


def _move_in_torch(seen: Tensor, matrices: Tensor, images: Tensor, moved: Tensor) -> None:
    images[moved] = move_on_gpu(seen, matrices, images.shape[-1]).round().byte()


def _train(plan: Plan, seed: int, plain: bool) -> float:
    torch.set_num_threads(plan.threads)
    if plain:
        vars(batches)["move_on_cpu"] = _move_in_torch
    else:
        keep_freed_memory()
    config = plan.config(precision="float32" if plain else "auto")
    config = config.model_copy(update={"seed": seed})
    data = DevelopmentTiles(plan.pack_folder, plan.device).open()
    state = make_initial_state(plan.backbone, plan.weights or "none", seed=seed)
    model = build_configured(config.model)
    model.load_state_dict(state.tensors)
    *_, last = fit(model.to(plan.device), config, data.train, data.val)
    return last.val_metrics["average_precision"]
