"""A chosen ensemble → what is tested beside it: other methods, the best member of each backbone.

Each contender is chosen completely on validation, as the ensemble itself is, with its temperature,
thresholds and second stage. None of them is ever taken by its test figures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensemble.base.options import METHODS
from ensemble.run.members import open_members, rank_members, read_validation, see_context
from ensemble.selection.choice import EnsembleRecord
from ensemble.selection.choose import (
    NOT_ESTIMATED,
    KnownScores,
    Picked,
    check_top_k,
    find_candidates,
    fit_thresholds,
    open_development,
    weigh_members,
)
from ensemble.selection.methods import Asked
from ensemble.training.checkpoint import Member

WEIGHING = ("mean", "greedy", "weighted")


class Contender(NamedTuple):
    """An ensemble, or one member that stands for itself.

    Attributes:
        name: Short name: a method, or `trial_` and the number.
        what: Name for people.
        record: The ensemble, as chosen on validation.
        is_reference: Whether the others are compared with it: the best single member that sees the
            tile alone, or the best one where none does.
    """

    name: str
    what: str
    record: EnsembleRecord
    is_reference: bool


def choose_contenders(
    run: Path, record: EnsembleRecord, *, known: KnownScores, log: Callable[[str], None]
) -> list[Contender]:
    """Choose what is tested beside an ensemble, on validation.

    They are mean, greedy and weighted, whichever `record` is not; the best member of each backbone;
    and of each the best that sees the tile alone.

    Args:
        run: A run's folder.
        record: The ensemble that was chosen.
        known: Scores of validation tiles made while it was chosen, which are added to.
        log: Takes a line now and then while tiles are scored.
    """
    table = read_validation(run)
    finished = open_members(run, split_digest=record.split_digest, log=_ignore)
    members = find_candidates(finished, num_val_tiles=len(table), log=_ignore)
    k = check_top_k(record.top_k, num_candidates=len(members), num_finished=len(finished))
    ranked, rule, budget = rank_members(members), record.threshold_rule, record.budget_members
    val = None
    if record.tta or see_context(members):
        val = open_development(run, table).val

    def choose(name: str, what: str, picked: Picked, best_single: Member) -> Contender:
        fitted = fit_thresholds(
            run,
            picked,
            best_single=best_single,
            table=table,
            rule=rule,
            val=val,
            tta=record.tta,
            is_decided=True,
            known=known,
            log=log,
        )
        own: dict[str, Any] = {
            "method": picked.method,
            "asked_method": picked.method,
            "methods": [],
            "optimism": None,
            "optimism_note": NOT_ESTIMATED,
        }
        chosen = EnsembleRecord.model_validate({**record.model_dump(), **fitted, **own})
        return Contender(name, what, chosen, name == reference)

    lone = [member for member in ranked if not see_context([member])]
    reference = f"trial_{(lone or ranked)[0].trial}"
    contenders = []
    for method in WEIGHING:
        if method != record.method:
            picked = weigh_members(members, table, Asked(method, k, rule, budget), flatters=False)
            count = len(picked.members)
            what = METHODS[method].format(count=count) if count > 1 else f"{method}: one member"
            contenders.append(choose(method, what, picked, ranked[0]))
    for member, what in find_singles(ranked):
        alone = Picked("mean", [member], np.ones(1), budget=budget)
        contenders.append(choose(f"trial_{member.trial}", what, alone, member))
    return contenders


def find_singles(ranked: Sequence[Member]) -> list[tuple[Member, str]]:
    """The best member of each backbone, and the best that sees the tile alone, with their names.

    Args:
        ranked: Members, the best by validation first.
    """
    found: dict[int, tuple[Member, str]] = {}
    lone = [member for member in ranked if not see_context([member])]
    for members, end in ((ranked, ""), (lone, " that sees the tile alone")):
        best: dict[str, Member] = {}
        for member in members:
            best.setdefault(member.record.config.model.backbone, member)
        for backbone, member in best.items():
            found.setdefault(member.trial, (member, f"trial {member.trial}, best {backbone}{end}"))
    return list(found.values())


def _ignore(line: str) -> None:
    """Say nothing: the choice of the ensemble has said which members are left out."""
