"""python -m ensemble.evaluate: the ensemble of a run, chosen on validation and tested once."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("evaluate")

import argparse
from typing import Any

from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.process import keep_freed_memory
from ensemble.base.wording import plural
from ensemble.evaluation.comparison import print_compared
from ensemble.evaluation.presentation import print_result, read_names
from ensemble.evaluation.protocol import evaluate_run
from ensemble.run.folder import display_path
from ensemble.run.members import take_run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, print the table and where the files are, and return the metrics."""
    if options.min_recall is not None and options.threshold is not None:
        raise InputError("--min-recall and --threshold exclude each other; give one")
    rule = options.threshold or "f1"
    if options.min_recall is not None:
        rule = f"recall={options.min_recall}"
    keep_freed_memory()
    run = take_run(options.run, under=options.out)
    names = read_names(run)
    metrics = evaluate_run(
        run,
        method=options.method,
        top_k=options.top_k,
        rule=rule,
        tta=options.tta,
        budget_members=options.budget_members,
        labels_file=options.labels,
        compare=options.compare,
    )
    with printing_result():
        console = Console(width=None if Console().is_terminal else 240)
        print_result(metrics, names, console)
        if metrics["compared"]:
            print_compared(metrics, console)
        if metrics["precision_note"]:
            print(metrics["precision_note"])
    candidates, finished = metrics["num_candidates"], metrics["num_finished_trials"]
    if candidates < finished:
        of = plural(finished, "finished trial")
        print(f"chosen from the {candidates} of {of} that kept their weights")
    print(f"written: {display_path(run / 'evaluation')}, and ensemble.json, which predict uses")
    print(f"next: {spell_command('report')} {display_path(run)}")
    print(f"      {spell_command('predict')} {display_path(run)} PHOTOS")
    return metrics
