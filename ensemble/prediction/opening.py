"""The run that a person names, and the photographs behind it → the ensemble that judges them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ensemble.base.door import spell_command
from ensemble.base.errors import InputError
from ensemble.base.wording import plural
from ensemble.data.reading.listing import list_suffixes
from ensemble.run.exported import is_exported
from ensemble.run.members import is_run, list_runs, take_run
from ensemble.selection.ensemble import Ensemble, load_ensemble


def open_run(
    command: str, run: str, photographs: Sequence[Path], under: Path, log: Callable[[str], None]
) -> tuple[Path, Ensemble]:
    """Find a run and load its ensemble, and tell `log` both.

    Args:
        command: Name of the command, for what it says of an order that is not its own.
        run: A run's path or its name under `under`, or the path of an exported ensemble.
        photographs: Paths of what it is to judge.
        under: Folder of the runs.
        log: Takes a line for the person.

    Returns:
        The run's folder, or the exported file; and its ensemble.

    Raises:
        InputError: The photographs stand where the run is expected, there is no such run, it has
            no ensemble, or it is damaged.
    """
    _check_order(command, run, photographs, under)
    found = take_run(run, under=under, takes_exported=True, log=log)
    ensemble = load_ensemble(found)
    turned = ", each tile in its eight flips and turns" if ensemble.tta else ""
    log(f"ensemble: {plural(len(ensemble.members), 'member')}{turned}")
    return found, ensemble


def _check_order(command: str, run: str, photographs: Sequence[Path], under: Path) -> None:
    """Refuse photographs before the run, or a second run among the photographs."""

    def names_run(path: Path) -> bool:
        return is_run(path) or is_run(under / path) or is_exported(path)

    path = Path(run)
    order = f"{spell_command(command)} RUN PHOTOS"
    is_folder, is_picture = path.is_dir(), path.suffix.lower() in list_suffixes()
    if (is_folder or is_picture) and not names_run(path):
        what = "a folder without a run in it" if is_folder else "a picture"
        there = ", ".join(each.name for each in list_runs(under)[:10])
        runs = f"; runs in {under}: {there}" if there else f"; there is no run in {under} yet"
        raise InputError(f"{run}: is {what}, and the run comes first: {order}{runs}")
    for photograph in photographs:
        if names_run(photograph):
            raise InputError(f"{photograph}: is a run, not a picture: {order}")
