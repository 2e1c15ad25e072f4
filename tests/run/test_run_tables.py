"""A run's table of epochs: whole after each epoch, whatever came before."""

from typing import Any

import pandas as pd

from ensemble.run.tables import RunTables


def epoch(number: int, **more: Any) -> dict[str, Any]:
    return {"epoch": number, "val_f1": number / 7, "last": number == 3, **more}


def test_the_table_holds_all_epochs_in_order_of_trial_and_epoch(tmp_path):
    tables = RunTables(tmp_path)
    for number, trial in [(1, 5), (1, 2), (2, 5), (2, 2)]:
        tables.add_epoch(trial, "resnet18", epoch(number))
    expected = pd.DataFrame(
        {"trial": trial, "backbone": "resnet18", **epoch(number)}
        for trial, number in [(2, 1), (2, 2), (5, 1), (5, 2)]
    )
    assert (tmp_path / "epochs.csv").read_text() == expected.to_csv(index=False)


def test_an_epoch_trained_again_replaces_itself_and_what_came_after(tmp_path):
    for numbers in ([1, 2, 3], [2]):  # the second time by another process
        tables = RunTables(tmp_path)
        for number in numbers:
            tables.add_epoch(0, "resnet18", epoch(number))
    assert list(pd.read_csv(tmp_path / "epochs.csv")["epoch"]) == [1, 2]


def test_a_figure_that_earlier_epochs_lack_is_an_empty_cell_of_theirs(tmp_path):
    tables = RunTables(tmp_path)
    tables.add_epoch(0, "resnet18", epoch(1))
    tables.add_epoch(1, "a,b", epoch(1, precision="float32", loss=None))
    assert (tmp_path / "epochs.csv").read_text().splitlines() == [
        "trial,backbone,epoch,val_f1,last,precision,loss",
        "0,resnet18,1,0.14285714285714285,False,,",
        '1,"a,b",1,0.14285714285714285,False,float32,',
    ]
