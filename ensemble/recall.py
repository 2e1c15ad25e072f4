"""python -m ensemble.recall: what class weights and stronger augmentation do about a low recall."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("recall")

import argparse
from typing import Any

from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.files import table_rows
from ensemble.base.interruption import resumable
from ensemble.base.process import keep_freed_memory
from ensemble.recipes.recall import print_recall, train_recall_remedies
from ensemble.run.folder import display_path
from ensemble.run.members import choose_device, take_run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing, print the table, and return it."""
    run = take_run(options.run, under=options.out)
    keep_freed_memory()
    device = choose_device(options.gpus)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    how = f"{spell_command('recall')} {display_path(run)} goes on after the last finished epoch"
    with resumable(how, console.print):
        table = train_recall_remedies(run, device, console)
    with printing_result():
        print_recall(table, console)
    console.print(f"written: {display_path(run)}/recall.csv")
    console.print(f"next: {spell_command('evaluate')} {display_path(run)}")
    return {"run": str(run), "table": table_rows(table)}
