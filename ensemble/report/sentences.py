"""A run's numbers in plain sentences, which follow from `metrics.json` and the tables."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.door import spell_command
from ensemble.base.wording import capitalize_first, format_number, percent, plural
from ensemble.data.prepare import is_drawn
from ensemble.evaluation.figures import thresholds_in
from ensemble.evaluation.presentation import (
    describe_method,
    openings_elsewhere,
    seed_sentences,
    sole_member,
    trivial_sentences,
)
from ensemble.training.metrics import confusion_counts

LEAK = "LEAKY SPLIT: shows what leakage is worth, no result"


def seed_caveat(choice: dict[str, Any]) -> str:
    """State what no interval holds, and what is known of it; `ensemble.json` in."""
    known = "".join(f" {line}." for line in seed_sentences(choice))
    return (
        "Intervals hold for these trained networks: how much other seeds would change is not in "
        f"them.{known}"
    )


def is_leaky(run: dict[str, Any], metrics: dict[str, Any] | None) -> bool:
    """Whether the run was split by tile on purpose, to show what leakage is worth."""
    data = run.get("data_summary") or {}
    return any(bool(about.get("leaky_split")) for about in (run, data, metrics or {}))


def headline(metrics: dict[str, Any], leak: str = "") -> str:
    """State in one sentence what is found and missed, and the false alarms a photograph."""
    counts = metrics["ensemble"]["confusion_matrix"]
    hits, alarms = counts["true_positive"], counts["false_positive"]
    cracked = plural(hits + counts["false_negative"], "cracked tile")
    if not hits + alarms:
        return f"Calls no tile cracked: it misses all of {cracked}."
    unseen = "On photographs that it had never seen, it finds"
    if leak or metrics["split_by"] != "photograph":
        unseen = "Finds"
    finds = f"{unseen} {hits:,} of {cracked} and misses {counts['false_negative']:,}"
    photographs = metrics["num_test_photographs"]
    if not alarms:
        return f"{finds}, without a false alarm."
    if not photographs:
        among = plural(alarms + counts["true_negative"], "uncracked tile")
        return f"{finds}, with {plural(alarms, 'false alarm')} among {among}."
    return f"{finds}, with {alarms_a_photograph(alarms, photographs)}."


def alarms_a_photograph(alarms: int, photographs: int) -> str:
    """State a number of false alarms for each photograph."""
    rate = alarms / photographs
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 0.095 else f"{rate:.2g}"
    return f"{shown} false alarms a photograph ({alarms:,} in {photographs:,})"


def trust_sentences(metrics: dict[str, Any], leak: str = "") -> list[str]:
    """State how far the headline can be trusted: what was tested, and its intervals."""
    figures, bounds = metrics["ensemble"], metrics["ensemble"]["intervals"]
    photographs = metrics["num_test_photographs"]
    of = f" of {plural(photographs, 'photograph')}" if photographs else ""
    unseen = "on which nothing was trained or chosen"
    if leak or metrics["split_by"] != "photograph":
        unseen = "whose photographs may have been trained on"
    sentences = [f"It was tested on {plural(metrics['num_test_tiles'], 'tile')}{of}, {unseen}."]
    recall, alarms = bounds["recall"], bounds["false_alarms_per_photograph"]
    parts = []
    if recall["low"] is not None:
        parts.append(
            f"finds {100 * recall['low']:.0f} to {100 * recall['high']:.0f} of 100 cracked tiles"
        )
    if photographs and alarms["low"] is not None:
        parts.append(f"gives {alarms['low']:.1f} to {alarms['high']:.1f} false alarms a photograph")
    if parts:
        sentences.append(f"On others like these it {' and '.join(parts)} (95 % intervals).")
    else:
        sentences.append(
            f"{capitalize_first(metrics['intervals'])}. So how far these figures would move on "
            "other photographs is not known."
        )
    if not trivial_sentences(metrics):
        sentences.append(
            f"Its F1 is {figures['f1']:.3f}{_interval(figures['intervals']['f1'], missing='')}; "
            f"calling every tile cracked would reach {figures['trivial_f1']:.3f}."
        )
    return sentences


def result_sentences(metrics: dict[str, Any], leak: str = "") -> list[str]:
    """State the result, the comparison with the best single member, and what limits both.

    `leak` is the mark of a leaky split, and empty for a split that can give a result.
    """
    figures, choice = metrics["ensemble"], metrics["choice"]
    counts = figures["confusion_matrix"]
    cracked = counts["true_positive"] + counts["false_negative"]
    called = counts["true_positive"] + counts["false_positive"]
    photographs = metrics["num_test_photographs"]
    of = f" from {plural(photographs, 'photograph')}" if photographs else ""
    unseen = "which nothing was trained or chosen on"
    chosen = "members were" if is_fixed(choice["threshold_rule"]) else "members and threshold were"
    drop = (
        "What separates that from the test is partly the optimism of choosing and partly that the "
        "photographs are others; one test cannot tell the two apart."
    )
    if leak or metrics["split_by"] != "photograph":
        unseen = "whose photographs may have been trained on"
        drop = "How near the two are says nothing here: both may share photographs with training."
    return [
        f"On {plural(metrics['num_test_tiles'], 'test tile')}{of}, {unseen}, the "
        f"ensemble ({describe_method(choice)}) reaches an F1 of "
        f"{figures['f1']:.3f} for the class “cracked”"
        f"{_interval(figures['intervals']['f1'])}. Calling every tile cracked would reach "
        f"{figures['trivial_f1']:.3f}.",
        f"It finds {counts['true_positive']:,} of {plural(cracked, 'cracked tile')} (recall "
        f"{percent(figures['recall'])}); of the {plural(called, 'tile')} that it calls cracked, "
        f"{counts['false_positive']:,} {_are(counts['false_positive'])} not "
        f"(precision {percent(figures['precision'])}).",
        *comparison_sentences(metrics),
        f"On validation, where {chosen} chosen, its F1 was "
        f"{choice['val_metrics']['f1']:.3f}. {drop}",
    ]


def comparison_sentences(metrics: dict[str, Any]) -> list[str]:
    """Compare the ensemble with the member that was best by itself on validation."""
    gain, single = metrics["gain_over_best_single"]["f1"], metrics["best_single"]
    if sole_member(metrics) is not None:
        return [
            f"Trial {single['trial']} ({single['backbone']}) is its only member, so there is "
            "nothing to compare it with."
        ]
    if gain["difference"] is None:
        return []
    bounds = "" if gain["low"] is None else _interval(gain, sign="+")
    return [
        f"The best single member by validation, trial {single['trial']} ({single['backbone']}), "
        f"reaches {single['f1']:.3f} by itself. Ensemble minus single: "
        f"{format_number(gain['difference'], '+.3f')}{bounds}. Verdict: {gain['verdict']}."
    ]


def base_rate_sentence(metrics: dict[str, Any]) -> str:
    """The accuracy that is reached without looking."""
    counts = metrics["ensemble"]["confusion_matrix"]
    uncracked = counts["false_positive"] + counts["true_negative"]
    share = uncracked / max(sum(counts.values()), 1)
    return (
        f"Calling every tile uncracked would be right for {percent(share)} of them, so "
        "accuracy says little here; read F1, precision and recall."
    )


def calibration_sentence(figures: dict[str, Any]) -> str:
    """State what the temperature did on the test split."""
    return (
        "The table judges the probabilities before calibration; with the temperature of validation "
        f"the log loss is {figures['calibrated_loss']:.3f}, the Brier score "
        f"{figures['calibrated_brier']:.3f}, and the expected calibration error "
        f"{figures['calibrated_expected_calibration_error']:.3f} instead of "
        f"{figures['expected_calibration_error']:.3f}."
    )


def warnings_about(
    run: dict[str, Any], metrics: dict[str, Any] | None, predictions: pd.DataFrame | None
) -> list[str]:
    """List what a reader must know before believing any figure."""
    warnings = []
    if is_drawn(str(run.get("data", ""))):
        warnings.append(
            "Its tiles are drawn concrete and no photographs: the figures say nothing of real "
            "cracks."
        )
    data = run.get("data_summary") or {}
    split_by = (metrics or {}).get("split_by") or data.get("split_by")
    if is_leaky(run, metrics):
        warnings.append(f"{LEAK}.")
    elif split_by not in (None, "photograph"):
        warnings.append(
            f"Split by {split_by}, not by photograph: tiles of one photograph may be in training "
            "and in test, so leakage cannot be ruled out. Figures may be far too good."
        )
    if metrics is None:
        return warnings
    openings, others = metrics["num_test_openings"], metrics["openings_by_other_runs"]
    if openings > 1 or others:
        warnings.append(
            f"The test split was opened {plural(openings, 'time')}{openings_elsewhere(metrics)}. "
            "If anything was changed after a look at its figures, they are no longer those of "
            "unseen photographs."
        )
    if predictions is not None and not agrees(metrics, predictions):
        warnings.append(
            "predictions.csv does not give the counts in metrics.json: one of them was changed. "
            "Evaluate again."
        )
    return warnings


def agrees(metrics: dict[str, Any], predictions: pd.DataFrame) -> bool:
    """Whether the confusion matrix follows from the predictions."""
    labels, scores = (predictions[name].to_numpy() for name in ("label", "ensemble"))
    counts = confusion_counts(labels, scores, thresholds_in(metrics, predictions))
    return counts.items() <= metrics["ensemble"]["confusion_matrix"].items()


def early_stopping_sentence(spent: int, full: int, num_pruned: int, num_finished: int) -> str:
    """State what early stopping saved."""
    if not num_pruned:
        return f"No trial was stopped early; epochs trained: {spent:,}."
    return (
        f"Early stopping ended {num_pruned} of {plural(num_finished, 'finished trial')}. They "
        f"trained {plural(spent, 'epoch')} together, where all would have had {full:,}: "
        f"{percent(1 - spent / full, 0)} of the epochs were saved. What the stopped trials "
        "would have reached is not known."
    )


def is_fixed(rule: str) -> bool:
    """Whether a threshold rule is a number, so that nothing was chosen."""
    return rule not in ("f1", "f2") and not rule.startswith("recall=")


def describe_rule(rule: str) -> str:
    """State how a threshold came about, to stand behind “it was”."""
    if is_fixed(rule):
        return f"fixed at {rule} beforehand"
    if rule in ("f1", "f2"):
        return f"chosen on validation, where {rule.upper()} is highest"
    least = rule.removeprefix("recall=")
    return f"chosen on validation, as the highest with a recall of at least {least}"


def describe_temperature(temperature: float) -> str:
    """State what a temperature says of the probabilities that it corrects."""
    if round(temperature, 3) == 1:
        return "the probabilities were left as they were"
    how = "too sure" if temperature > 1 else "not sure enough"
    return f"the probabilities were {how}"


def name_alone(path: str) -> str:
    """The last part of a path that begins at the root: the page is given away, the machine is not.

    Such a path may stand in a URL, as in `sqlite:////home/x.db`. Other words stay as they are, such
    as a relative path.
    """
    scheme, slashes, rest = path.partition(":///")
    if slashes and rest:
        return f"{scheme}{slashes}{Path(rest).name}"
    return Path(path).name if Path(path).is_absolute() else path


def command_without_folders(command: str) -> str:
    """A command as it can be typed elsewhere: without the folders of the machine that ran it."""
    try:
        words = shlex.split(command)
    except ValueError:  # of an older version, or a damaged one
        words = command.split()
    shown = []
    for number, word in enumerate(words):
        if number == 0 and Path(word).name == "__main__.py":
            shown += ["python", "-m", f"ensemble.{Path(word).parent.name}"]
            continue
        name, equals, value = word.rpartition("=")
        shown.append(f"{name}{equals}{name_alone(value)}")
    return shlex.join(shown)


def spell_without_folders(command: str) -> str:
    """A command of this program as it is typed, without the folder of this machine's Python."""
    return command_without_folders(spell_command(command))


def evaluate_command(name: str, choice: dict[str, Any], *, has_rule: bool = True) -> str:
    """The command line that evaluates the run again in the same way.

    Without `has_rule` the threshold's rule is left out, so that another one can follow.
    """
    rule = choice["threshold_rule"]
    words = [f"{spell_without_folders('evaluate')} {name} --method {choice['asked_method']}"]
    if choice["top_k"] is not None:
        words.append(f"--top-k {choice['top_k']}")
    if not has_rule:
        pass
    elif rule.startswith("recall="):
        words.append(f"--min-recall {rule.removeprefix('recall=')}")
    else:
        words.append(f"--threshold {rule}")
    if choice["budget_members"] is not None:
        words.append(f"--budget-members {choice['budget_members']}")
    return " ".join([*words, *["--tta"] * (choice["tta_tried"] is not None)])


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _interval(bounds: dict[str, Any], sign: str = "", missing: str = "; it has no interval") -> str:
    if bounds["low"] is None:
        return missing
    low, high = (format_number(bounds[end], f"{sign}.3f") for end in ("low", "high"))
    return f"; 95 % interval {low} to {high}"
