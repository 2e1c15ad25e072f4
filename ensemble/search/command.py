"""scripts/search.py: from the command line to a run's folder; bad input is refused first."""

import os
import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ensemble.data.pack import Pack
from ensemble.data.prepare import is_synthetic, prepare_data
from ensemble.errors import InputError
from ensemble.files import read_json, write_json, write_text
from ensemble.provenance import describe_code_and_machine
from ensemble.search.budget import Budget, plan_budget
from ensemble.search.cluster import cluster_resources, connected, prepare_environment
from ensemble.search.options import build_parser
from ensemble.search.space import Space
from ensemble.search.space_file import load_space
from ensemble.training.config import Backbone
from ensemble.training.weights import InitialState, make_initial_state, save_initial_state

SPACES = Path(__file__).parents[2] / "search_spaces"


def main(arguments: list[str] | None = None) -> None:
    """Search as the command line says."""
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    for option, value in (("--trials", options.trials), ("--seed", options.seed + 1)):
        if value < 1:
            raise InputError(f"{option}: got {value}, too small")
    space = load_space(_find_space(options.space))
    space = space.changed(epochs=options.epochs, image_size_px=options.image_size)
    name = (
        options.name
        or f"{space.path.stem}{'-leaky' * options.leaky_split}-{datetime.now():%Y%m%d-%H%M%S}"
    )
    if Path(name).name != name or name.startswith(".") or name == "packs":
        raise InputError(f"--name {name!r}: must be a plain name of a folder, and not 'packs'")
    folder = (options.out / name).resolve()
    weights = _parse_weights(options.weights, space)
    workers = options.workers_per_trial or space.workers_per_trial
    cores, gpus = _cores_and_gpus_here()

    def plan(available_cpus: int, available_gpus: int) -> Budget:
        return plan_budget(
            gpus=options.gpus,
            cpus=options.cpus,
            workers_per_trial=workers,
            trials_per_gpu=options.trials_per_gpu,
            available_gpus=available_gpus,
            available_cpus=available_cpus,
        )

    if options.address is None:
        plan(cores, gpus)  # refused before anything is read
    if not is_synthetic(options.data) and not Path(options.data).exists():
        raise InputError(f"--data {options.data}: no such folder or .zip")
    states = {}
    for backbone, what in weights.items():
        if what == "imagenet":
            console.print(f"{backbone}: ImageNet weights, downloaded unless they are here already")
        states[backbone] = make_initial_state(backbone, what, seed=options.seed)
    packed = prepare_data(
        options.data,
        positive=options.positive,
        split_seed=options.split_seed,
        leaky_split=options.leaky_split,
        max_bad_tiles=options.max_bad_tiles,
        packs=options.out.resolve() / "packs",
        say=console.print,
    )
    identity = _identity(space, packed, options.seed, states)
    _check_same_run(folder, identity)

    prepare_environment(options.address)
    with connected(options.address, num_cpus=cores, num_gpus=gpus):
        budget = plan(*(cluster_resources() if options.address else (cores, gpus)))
        _begin_run(folder, identity, packed, space, states)
        for backbone, state in states.items():
            console.print(f"{backbone} starts from {state.origin}")
        console.print(f"searching {options.trials} trials: {budget}")
        # these import Ray, which reads its environment then
        from ensemble.search.run import run_search
        from ensemble.search.study import count_finished, find_best

        study = run_search(
            folder,
            space,
            budget,
            pack_folder=packed.folder,
            seed=options.seed,
            num_trials=options.trials,
            max_failures=options.max_failures,
            console=console,
        )
    finished = count_finished(study)
    if finished:
        number, f1 = find_best(study)
        console.print(f"best: trial {number}, validation F1 {f1:.3f}")
    console.print(f"run: {folder}")
    if finished < options.trials:
        console.print(
            f"stopped with {finished} of {options.trials} trials; the same command with "
            f"--name {shlex.quote(name)} goes on"
        )
        sys.exit(130)  # as the shell says of Ctrl-C
    console.print(f"next: python -m ensemble.evaluate {shlex.quote(_shown(folder))}")


def _find_space(given: str) -> Path:
    path = Path(given)
    if path.suffix == ".toml" or path.exists():
        return path
    known = sorted(file.stem for file in SPACES.glob("*.toml"))
    if given not in known:
        raise InputError(f"--space {given}: no such file, nor one of {', '.join(known)}")
    return SPACES / f"{given}.toml"


def _parse_weights(given: list[str], space: Space) -> dict[str, str | Path]:
    """`imagenet`, `none` or a file for each backbone of the space."""
    weights: dict[str, str | Path] = dict.fromkeys(space.backbones, space.weights)
    for text in sorted(given, key=lambda text: "=" in text):  # the general ones first
        backbone, equals, what = text.rpartition("=")
        if equals and backbone not in weights:
            names = ", ".join(space.backbones)
            known = "not in the space" if backbone in Backbone.__args__ else "an unknown backbone"  # type: ignore[attr-defined]
            raise InputError(f"--weights {text}: {backbone!r} is {known} (it has {names})")
        value: str | Path = what if what in ("imagenet", "none") else Path(what)
        if isinstance(value, Path) and not equals and len(weights) > 1:
            raise InputError(f"--weights {text}: say for which backbone: --weights BACKBONE={what}")
        for name in [backbone] if equals else list(weights):
            weights[name] = value
    return weights


def _cores_and_gpus_here() -> tuple[int, int]:
    return len(os.sched_getaffinity(0)), torch.cuda.device_count()


def _identity(
    space: Space, packed: Pack, seed: int, states: dict[str, InitialState]
) -> dict[str, Any]:
    """What must be the same for a run to be continued, in the order a person would look."""
    return {
        "data": packed.about["source"],
        "split_digest": packed.about["split_digest"],
        "seed": seed,
        "epochs": space.default.optimisation.epochs,
        "image_size_px": space.default.data.image_size_px,
        "weights": {b: {"origin": s.origin, "digest": s.digest} for b, s in states.items()},
        "space": space.describe(),
    }


def _check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    if not folder.exists():
        return
    if not (folder / "run.json").exists():
        raise InputError(f"{folder} exists and is no run; choose another --name")
    known = read_json(folder / "run.json")
    for key, value in identity.items():
        if key == "data" or known.get(key) == value:
            continue  # the same tiles may lie elsewhere today
        what = {"split_digest": "data", "image_size_px": "image size"}.get(key, key)
        if isinstance(value, dict) or key == "split_digest":
            was, now = (known.get("data"), identity["data"]) if key == "split_digest" else ("", "")
            detail = f" ({was}, now {now})" if was != now else ""
        else:
            detail = f" ({known.get(key)}, now {value})"
        raise InputError(
            f"the run {folder.name} exists with other {what}{detail}: choose another --name, or "
            "give the same options to continue it"
        )


def _begin_run(
    folder: Path,
    identity: dict[str, Any],
    packed: Pack,
    space: Space,
    states: dict[str, InitialState],
) -> None:
    """Make the run's folder, complete or not at all, unless it is there."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "initial").mkdir(parents=True)
        for backbone, state in states.items():
            save_initial_state(state, partial / "initial" / f"{backbone}.safetensors")
        write_text(partial / "space.toml", space.path.read_text(encoding="utf-8"))
        shutil.copy(packed.folder / "samples.png", partial / "samples.png")
        table = packed.table("val")[["tile", "photograph", "surface", "label"]]
        write_text(partial / "validation.csv", table.to_csv(index=False))
        about = {
            "command": shlex.join(sys.argv),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pack_folder": str(packed.folder),
            "leaky_split": packed.about["leaky_split"],
            "data_summary": packed.about,
            "tile_size_px": [packed.about["height_px"], packed.about["width_px"]],
            **identity,
            **describe_code_and_machine(),
        }
        write_json(partial / "run.json", about)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _shown(path: Path) -> str:
    """Relative to where the person is, where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
