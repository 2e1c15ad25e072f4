"""python -m ensemble.judge: how a run's ensemble does on another labelled data set."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("judge")

import argparse
from typing import Any

from rich.console import Console

from ensemble.base.door import printing_result
from ensemble.base.process import keep_freed_memory
from ensemble.data.layout import layout_of
from ensemble.evaluation.judging import judge_data
from ensemble.evaluation.presentation import print_judged
from ensemble.run.folder import display_path
from ensemble.run.members import take_run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Judge the data, print the table and where the files are, and return the metrics."""
    keep_freed_memory()
    run = take_run(options.run, under=options.out)
    metrics = judge_data(
        run,
        options.data,
        layout_of(options),
        name=options.name,
        max_bad_tiles=options.max_bad_tiles,
    )
    with printing_result():
        print_judged(metrics, Console(width=None if Console().is_terminal else 240))
        if metrics["precision_note"]:
            print(metrics["precision_note"])
    print(f"written: {display_path(run / 'judged' / metrics['name'])}")
    return metrics
