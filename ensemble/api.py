"""The Python interface, for notebooks: what the commands do, with tables as pandas DataFrames.

    from ensemble import load_ensemble, open_run, run_search

    run = run_search(data="SDNET2018.zip", trials=20)
    run.evaluate(method="auto").figures
    load_ensemble(run).predict(["photographs/"])

Arguments are those of the commands' options and are checked by these; what a command refuses is
raised as `InputError`.
"""

import contextlib
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_table
from ensemble.cli import COMMANDS, parse
from ensemble.inspection.inspecting import Inspection, inspect_pictures
from ensemble.labelling.cutting import cut_pictures
from ensemble.labelling.labelled import Labelled, write_labelled
from ensemble.labelling.learning import Learned, learn_from
from ensemble.prediction.verdicts import check_csv, predict_pictures
from ensemble.run.members import choose_device, find_run
from ensemble.selection import ensemble as selection

PathLike = Path | str
TABLE_TEXT = ("name", "reason", "backbone", "state", "tile", "photograph", "surface")


@dataclass(frozen=True)
class Evaluation:
    """What the test of an ensemble gave.

    Attributes:
        folder: Folder of the files that the evaluation wrote.
        metrics: What its `metrics.json` holds: every figure with its interval.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)

    @property
    def figures(self) -> pd.DataFrame:
        """One row for the ensemble, each member and each surface, one column a metric."""
        rows = {"ensemble": self.metrics["ensemble"]}
        rows |= {f"trial {member['trial']}": member for member in self.metrics["members"]}
        for name, surface in self.metrics["surfaces"].items():
            rows[f"ensemble on surface {name}"] = surface
        return _tabulate(rows).drop(columns="trial")

    @property
    def predictions(self) -> pd.DataFrame:
        """One row a test tile: its label, and the probabilities of members and ensemble."""
        return _read(self.folder / "predictions.csv")

    @property
    def errors(self) -> pd.DataFrame:
        """One row a test tile that the ensemble got wrong."""
        return _read(self.folder / "errors.csv")

    @property
    def compared(self) -> pd.DataFrame:
        """One row an ensemble that was compared and way in which it judges, the chosen one first.

        Raises:
            InputError: Nothing was compared.
        """
        return _read(self.folder / "compared.csv")

    @property
    def suspect_labels(self) -> pd.DataFrame:
        """One row a test tile whose label the ensemble contradicts, the surest first."""
        return _read(self.folder / "suspect_labels.csv")


@dataclass(frozen=True)
class Judgement:
    """What the ensemble of a run reached on another data set.

    Attributes:
        folder: Folder of the files that were written.
        metrics: What its `metrics.json` holds: every figure with its interval.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)

    @property
    def figures(self) -> pd.DataFrame:
        """One row for all tiles and each surface, one column a metric."""
        rows = {"ensemble": self.metrics["ensemble"]}
        for name, surface in self.metrics["surfaces"].items():
            rows[f"ensemble on surface {name}"] = surface
        return _tabulate(rows)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row a tile: its label, and the probabilities of members and ensemble."""
        return _read(self.folder / "predictions.csv")


@dataclass(frozen=True)
class Run:
    """A run of a search, a refit or a recipe.

    Attributes:
        folder: Folder of the run.
    """

    folder: Path

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial: its state, settings, best epoch and validation F1."""
        return _read(self.folder / "trials.csv")

    @property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch of a trial: losses, metrics and seconds."""
        return _read(self.folder / "epochs.csv")

    @property
    def tried(self) -> pd.DataFrame:
        """One row a configuration of a refit that tried some: figures, and gains over the best."""
        return _read(self.folder / "tried.csv")

    def evaluate(
        self,
        *,
        method: Literal["mean", "greedy", "weighted", "soup", "auto"] = "mean",
        top_k: int | None = None,
        threshold: Literal["f1", "f2", "0.5"] | None = None,
        min_recall: float | None = None,
        tta: bool = False,
        compare: bool = False,
        budget_members: int | None = None,
        labels: PathLike | None = None,
        quiet: bool = True,
    ) -> Evaluation:
        """Choose an ensemble on the validation split and test it once on the test split.

        Args:
            method: How members are chosen.
            top_k: Number of members of `mean`; None takes five, or all if there are fewer.
            threshold: "f1" or "f2", the best by it on validation, or "0.5"; None takes "f1".
            min_recall: Validation recall of the threshold, in place of `threshold`.
            tta: Whether to average over flips and turns, if validation gains by it.
            compare: Whether other methods and the best of each backbone are tested beside it.
            budget_members: Forward passes that a tile may cost, before `tta`; None for any number.
            labels: CSV of corrected labels, for figures beside those on the original ones.
            quiet: Whether nothing is printed.

        Raises:
            InputError: There are too few members, or the run or its tiles are damaged or gone.
        """
        metrics = _call(
            "evaluate",
            [str(self.folder)],
            quiet=quiet,
            method=method,
            top_k=top_k,
            threshold=threshold,
            min_recall=min_recall,
            tta=tta,
            compare=compare,
            budget_members=budget_members,
            labels=labels,
        )
        return Evaluation(self.folder / "evaluation", metrics)

    def refit(
        self,
        *,
        top_k: int = 2,
        folds: int = 5,
        seeds: int = 1,
        tries: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        epochs: int | None = None,
        weights: Sequence[str] = (),
        gpus: int | None = None,
        cpus: int | None = None,
        name: str | None = None,
        out: PathLike | None = None,
        quiet: bool = False,
        **options: Any,
    ) -> "Run":
        """Train the best configurations anew on folds; a refit of the same name is continued.

        Args:
            top_k: Number of configurations, the best first.
            folds: Folds of the training and validation photographs, each left out once.
            seeds: Seeds that the best configuration is trained with in all.
            tries: Changes of the best configuration, each trained as a further one: settings with
                their values, as in `{"data.context_px": 0}`, or several of these.
            epochs: Epochs of each training; None takes the configuration's.
            weights: What backbones start from: "imagenet", "none" or "BACKBONE=FILE"; none takes
                what the run started from.
            gpus: GPUs to use in all; 0 trains on the CPU, None takes all there are.
            cpus: Cores to use where no GPU is used, which all workers share; None takes all.
            name: Name of the new run; None makes one of this run's and "-refit".
            out: Folder in which its folder is made; None takes that of this run.
            quiet: Whether nothing is printed.
            options: Further options of `crack-ensemble refit`, such as `max_hours=10`.

        Returns:
            The new run; its `tried` compares what was tried.

        Raises:
            InputError: Something that was given cannot be, the refit failed, or it was stopped
                before all was trained; the same call goes on.
        """
        from ensemble.search.refit import read_refit, run_refit

        typed = {
            **{"top_k": top_k, "folds": folds, "seeds": seeds, "epochs": epochs},
            **{"weights": weights, "gpus": gpus, "cpus": cpus, "name": name},
            **{"out": self.folder.parent if out is None else out, **options},
        }
        tried = _spell_tries([tries] if isinstance(tries, Mapping) else tries)
        parsed = parse("refit", [str(self.folder), *tried, *_words(typed)])
        with _silence(quiet):
            request, refit = read_refit(parsed)
            outcome = run_refit(request, refit)
        if outcome.stopped:
            way_on = request.describe_way_on(outcome.num_finished)
            raise InputError(f"stopped ({outcome.stopped}): {way_on}")
        return Run(outcome.folder)

    def judge(
        self, data: PathLike, *, name: str | None = None, quiet: bool = True, **options: Any
    ) -> "Judgement":
        """Judge another labelled data set by the ensemble that was chosen last.

        Args:
            data: Folder or .zip of tiles in class folders, or "synthetic".
            name: Name of the folder in the run's `judged/`; None takes the data's.
            quiet: Whether nothing is printed.
            options: Further options of `crack-ensemble judge`, such as `positive="Cracked"`.

        Raises:
            InputError: No ensemble was chosen, the data cannot be used, or nothing is left of them
                that the run was not trained on.
        """
        words = [str(self.folder)]
        metrics = _call("judge", words, quiet=quiet, data=data, name=name, **options)
        return Judgement(self.folder / "judged" / metrics["name"], metrics)

    def learn_from(
        self,
        corrections: PathLike | Sequence[PathLike],
        photographs: PathLike | Sequence[PathLike],
        folder: PathLike,
        *,
        data: PathLike | None = None,
        quiet: bool = True,
    ) -> Learned:
        """Put tiles that were corrected on the pages of an inspection into data for a search.

        Args:
            corrections: One or several CSV files that the pages saved.
            photographs: One or several pictures that were judged, or folders and .zip files of
                them.
            folder: Folder of the data set, new, empty or that of an earlier call for this run.
            data: Folder or .zip that the run was made from; None takes what its record says.
            quiet: Whether nothing is printed.

        Returns:
            What was written; `run_search(data=learned.folder, split="folders",
            photographs=learned.folder / "photographs.csv")` reads it.

        Raises:
            InputError: A label or a picture cannot be used, nothing is left to learn from, the
                run's tiles are gone, or the folder holds something else.
        """
        return learn_from(
            self.folder,
            [Path(path) for path in _list(corrections)],
            [Path(path) for path in _list(photographs)],
            Path(folder),
            data=None if data is None else Path(data),
            log=_say_nothing if quiet else print,
        )

    def report(self) -> Path:
        """Write the run's `report.html` and return its path.

        Raises:
            InputError: A file of the run is damaged.
        """
        return Path(_call("report", [str(self.folder)], quiet=True)["report"])

    def export(
        self,
        file: PathLike | None = None,
        *,
        format: Literal["zip", "onnx", "pt2"] | None = None,
    ) -> Path:
        """Write the ensemble, with its card, to one file and return its path.

        Args:
            file: The file to write; None takes the run's name, in the current folder.
            format: "zip" holds networks for this program, "onnx" and "pt2" one graph for others;
                None takes that of the name of `file`, or "zip".

        Raises:
            InputError: The run was not evaluated, a file of it is damaged, `file` is something
                else than an older export, or what writes the format is not installed.
        """
        words = [str(self.folder)]
        return Path(_call("export", words, quiet=True, file=file, format=format)["file"])


class PictureEnsemble(selection.Ensemble):
    """The ensemble of a run, which judges pictures without labels."""

    def predict(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        overlap: float = 0.0,
        csv: PathLike | None = None,
        overlays: PathLike | None = None,
        quiet: bool = False,
    ) -> pd.DataFrame:
        """Look for cracks in pictures.

        Args:
            paths: One or several pictures, folders and .zip files of pictures.
            overlap: Part of a tile's side by which tiles overlap: 0, 0.5 or 0.75.
            csv: File for the rows, ….csv in an existing folder; None writes none.
            overlays: Folder for pictures with what was found; None draws none.
            quiet: Whether nothing is said of pictures that cannot be read.

        Returns:
            One row a tile: picture, place, each member's probability, the ensemble's, the
            calibrated one, that refined by the tiles around with its threshold, what members saw
            around the tile, and the verdict.

        Raises:
            InputError: There is no such overlap, no path is given, a path does not exist, no
                picture can be read, or `csv` is no such file.
        """
        table = None if csv is None else Path(csv)
        if table is not None:
            check_csv(table)
        return predict_pictures(
            self,
            _list(paths),
            overlap=overlap,
            csv=table,
            overlays=None if overlays is None else Path(overlays),
            log=_say_nothing if quiet else print,
        )

    def inspect(
        self,
        paths: PathLike | Sequence[PathLike],
        folder: PathLike,
        *,
        run_name: str = "the ensemble",
        overlap: float = 0.0,
        mm_per_px: float | None = None,
        quiet: bool = False,
    ) -> Inspection:
        """Look for cracks in the photographs of a visit, and write pages to look through them.

        Args:
            paths: One or several pictures, folders and .zip files of pictures.
            folder: Folder of the pages and tables, new, empty or an older inspection.
            run_name: Name of what judged, for the pages.
            overlap: Part of a tile's side by which tiles overlap: 0, 0.5 or 0.75.
            mm_per_px: Millimetres of concrete that a pixel shows, for lengths in metres.
            quiet: Whether nothing is said of the progress.

        Returns:
            The sentence on the whole visit, and the tables as DataFrames: tiles, photographs, and
            what was not read.

        Raises:
            InputError: There is no such overlap, a path does not exist, no picture can be read, or
                the folder holds other files.
        """
        return inspect_pictures(
            self,
            _list(paths),
            Path(folder),
            run_name=run_name,
            overlap=overlap,
            mm_per_px=mm_per_px,
            log=_say_nothing if quiet else print,
        )


def run_search(
    *,
    data: PathLike,
    space: PathLike = "sdnet2018",
    trials: int = 20,
    epochs: int | None = None,
    image_size: int | None = None,
    weights: Sequence[str] = (),
    seed: int = 0,
    gpus: int | None = None,
    cpus: int | None = None,
    name: str | None = None,
    out: PathLike = "results",
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Search hyperparameters; a run of the same name is continued.

    Args:
        data: Folder or .zip of tiles in class folders, or "synthetic".
        space: TOML file of a search space, or the name of one that comes with the package.
        trials: Trials in all, finished or stopped early.
        epochs: Epochs of each trial; None takes the space's.
        image_size: Side of the square input in pixels; None takes the space's.
        weights: What backbones start from: "imagenet", "none" or "BACKBONE=FILE".
        seed: Seed of the study.
        gpus: GPUs to use in all; 0 trains on the CPU, None takes all there are.
        cpus: Cores to use where no GPU is used, which all workers share; None takes all.
        name: Name of the run; None makes one of the space's name and the time.
        out: Folder in which the run's folder and the packed tiles are made.
        quiet: Whether nothing is printed.
        options: Further options of `crack-ensemble search`, such as `max_hours=10`.

    Returns:
        The run, also where the search was stopped before it had all its trials.

    Raises:
        InputError: Something that was given cannot be, or the search failed.
    """
    from ensemble.search.command import read_request
    from ensemble.search.command import run_search as search

    typed = {
        **{"data": data, "space": space, "trials": trials, "epochs": epochs, "seed": seed},
        **{"image_size": image_size, "weights": weights, "gpus": gpus, "cpus": cpus},
        **{"name": name, "out": out, **options},
    }
    request = read_request(parse("search", _words(typed)))
    with _silence(quiet):
        return Run(search(request).folder)


def open_run(run: PathLike | None = None, *, out: PathLike = "results") -> Run:
    """Open a run by its name or path.

    Args:
        run: Name of a run under `out`, or a path; None takes the last one with a finished trial.
        out: Folder of the runs.

    Raises:
        InputError: There is no such run.
    """
    return Run(find_run(None if run is None else str(run), under=Path(out)))


def cut_photographs(
    photographs: PathLike | Sequence[PathLike],
    folder: PathLike,
    *,
    tile: int = 256,
    quiet: bool = True,
) -> pd.DataFrame:
    """Cut photographs that nobody cut into tiles, and write pages to label these on.

    Args:
        photographs: One or several pictures, folders and .zip files of pictures.
        folder: Folder of the pages, new, empty or an older one of tiles of this size.
        tile: Side of a tile in pixels.
        quiet: Whether nothing is said of the progress, nor of pictures that are left out.

    Returns:
        One row a tile: its `picture`, `tile`, box and whether it `is_blank`.

    Raises:
        InputError: A path does not exist, no picture can be cut, the folder holds other files, or
            there is no such tile.
    """
    words = [*map(str, _list(photographs)), *_words({"folder": folder, "tile": tile})]
    asked, log = parse("cut", words), _say_nothing if quiet else print
    sheets = cut_pictures(asked.photographs, asked.folder, side_px=asked.tile, log=log)
    tables = [sheet.tiles.assign(picture=sheet.picture) for sheet in sheets]
    return pd.concat(tables, ignore_index=True)


def label_tiles(folder: PathLike, labels: PathLike | Sequence[PathLike]) -> Labelled:
    """Put labelled tiles of cut photographs into class folders.

    Args:
        folder: Folder that `cut_photographs` wrote.
        labels: One or several CSV files that its pages saved.

    Returns:
        How many there are; `run_search(data=labelled.folder)` reads them.

    Raises:
        InputError: A label is damaged, or is of no tile of the folder.
    """
    return write_labelled(Path(folder), [Path(path) for path in _list(labels)])


def load_ensemble(
    run: Run | PathLike | None = None, *, out: PathLike = "results", gpus: int | None = None
) -> PictureEnsemble:
    """Load the ensemble that was chosen last from a run.

    Args:
        run: A run, its name under `out`, its path, or that of a file that `export` wrote; None
            takes the last run with a finished trial.
        out: Folder of the runs.
        gpus: 0 judges on the CPU; None takes a GPU where there is one. A graph of ONNX is run on
            the CPU.

    Raises:
        InputError: There is no such run, no ensemble was chosen from it, or a member is damaged.
    """
    name = run.folder if isinstance(run, Run) else run
    found = find_run(None if name is None else str(name), under=Path(out), takes_exported=True)
    loaded = selection.load_ensemble(found, choose_device(gpus))
    return PictureEnsemble(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})


def _call(command: str, words: Sequence[str], *, quiet: bool, **options: Any) -> Any:
    """Run a command's `main` in this process and return its result."""
    parsed = parse(command, [*words, *_words(options)])
    main = importlib.import_module(COMMANDS[command].module).main
    with _silence(quiet):
        return main(parsed)


def _list(paths: PathLike | Sequence[PathLike]) -> Sequence[PathLike]:
    """One path or several, as several."""
    return [paths] if isinstance(paths, str | Path) else paths


def _spell_tries(tries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Changes of a configuration as they are typed.

    Raises:
        InputError: They are no settings with values.
    """
    words = []
    for changes in tries:
        if not isinstance(changes, Mapping):
            raise InputError('tries: must be settings with values, as in {"data.context_px": 0}')
        words += ["--try", *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    return words


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed: one word each, none for None and False, several for a list."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"{flag}={each}" for each in values]
    return words


def _tabulate(rows: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """The numbers of each row, a column each."""
    numbers = {
        name: {key: value for key, value in row.items() if isinstance(value, int | float)}
        for name, row in rows.items()
    }
    return pd.DataFrame.from_dict(numbers, orient="index")


def _say_nothing(line: str) -> None:
    """Take a line about progress, and keep it."""


def _silence(quiet: bool) -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()


def _read(path: Path) -> pd.DataFrame:
    return read_table(path, text=TABLE_TEXT)
