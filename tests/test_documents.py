"""What the documents print is what the tables of `results/` hold."""

import json
import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
MARGIN_COLUMNS = [
    "val_average_precision",
    "val_f1",
    "alone_val_average_precision",
    "neighbours_val_average_precision",
    "neighbours_val_f1",
]
COLUMNS = ["test_f1", "test_precision", "test_recall", "test_average_precision"]


def test_the_results_in_the_readme_are_those_of_the_table():
    table = pd.read_csv(ROOT / "results/sdnet2018/table.csv").set_index(["what", "judged"])
    best = "sdnet2018-gpu: ensemble (mean of 3 members)"
    single = "sdnet2018-gpu: trial 0, best timm/tf_efficientnet_lite2"
    squeezenet = "trial 0, best squeezenet1_1"
    rows = {
        "mean of three EfficientNet-Lite at 224 px, with 64 px": (best, "with context"),
        "the same three, each tile alone": (best, "tile alone"),
        "SqueezeNet 1.1 at 128 px, with 64 px": (squeezenet, "with context"),
        "every tile called cracked": ("every tile called cracked", "tile alone"),
    }
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    for name, key in rows.items():
        row = table.loc[key]
        (line,) = (line for line in lines if line.startswith(f"| {name}"))
        assert re.findall(r"\d\.\d{3}", line) == [f"{row[column]:.3f}" for column in COLUMNS]
        ends = [row[f"{c}_{end}"] for c in (COLUMNS[0], COLUMNS[-1]) for end in ("low", "high")]
        printed = re.findall(r"\d\.\d\d(?!\d)", line)
        assert printed == [f"{end:.2f}" for end in ends if pd.notna(end)]
    row = table.loc[(best, "with context")]
    assert (
        f"tested on {row['num_test_tiles']:,} tiles of {row['num_test_photographs']:.0f} " in page
    )
    assert f"{row['training_hours']:.1f} hours of training" in page
    assert f"one alone reaches {table.loc[(single, 'with context'), 'test_f1']:.3f}." in page
    leaky = "split by tile, so tiles of one photograph are trained on and tested", "with context"
    assert f"which leaks, its F1 is {table.loc[leaky, 'test_f1']:.3f}, no higher" in page
    assert table.loc[leaky, "test_f1"] <= table.loc[(squeezenet, "with context"), "test_f1"]
    to_sdnet = table.loc[("trained on METU, judged on SDNET2018", "tile alone"), "test_f1"]
    to_metu = table.loc[("on folds: the ensemble, judged on METU", "tile alone"), "test_f1"]
    said = f"METU alone it is {to_sdnet:.3f} on SDNET2018; the other way round {to_metu:.3f}"
    assert said in page
    surfaces = ["Decks", "Pavements", "Walls"]
    names = [f"trained without {each}, judged on {each}" for each in surfaces]
    decks, pavements, walls = (table.loc[(name, "with context"), "test_f1"] for name in names)
    said = f"decks, pavements or walls it is {decks:.3f}, {pavements:.3f} and {walls:.3f} on these"
    assert said in page
    assert to_sdnet < 1.2 * table.loc[rows["every tile called cracked"], "test_f1"]  # "little"


def test_what_a_margin_brought_is_what_the_table_holds():
    table = pd.read_csv(ROOT / "results/context.csv")
    means = table.groupby("network").mean(numeric_only=True)
    page = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if re.match(r"\| \d+ px, margin \d+ px", line)]
    assert len(lines) == len(means)
    for line in lines:
        name, side, multiply_adds, *printed = line.strip("| ").split(" | ")
        row = means.loc[name]
        assert side == f"{row['input_px']:.0f} px"
        assert multiply_adds == f"{row['million_multiply_adds']:.0f}"
        assert printed == [f"{row[column]:.3f}" for column in MARGIN_COLUMNS]
    about = json.loads((ROOT / "results/context.json").read_text(encoding="utf-8"))
    assert f"{about['num_validation_tiles']:,} validation tiles of seven" in page
    assert about["num_validation_photographs"] == 7
    assert (table.groupby("network")["seed"].nunique() == 3).all()  # "means of three seeds"
    by_margin = table.pivot(index="seed", columns="network")
    for column in ("val_average_precision", "val_f1"):  # "above the tile alone", in all three
        gains = by_margin[column].sub(by_margin[column]["128 px, margin 0 px"], axis=0)
        with_margin = [name for name in gains if not name.endswith(" 0 px")]
        assert (gains[with_margin] > 0).all(axis=None)
        control = means.loc["192 px, margin 0 px", column]
        assert (means.loc[with_margin, column] > control).all()  # "on average above the control"
    alone = means["alone_val_average_precision"]
    differences = alone[with_margin] - alone["128 px, margin 0 px"]
    assert f"AP {differences.max():.3f} more to {-differences.min():.3f} less" in page
    assert not table["neighbours_help"].any()  # "helped none of the networks"


def test_how_near_networks_come_to_the_floor_is_what_the_table_holds():
    rows = pd.read_csv(ROOT / "results/benchmarks/2026-11-26.csv").set_index("what")["value"]
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(.+)` \| (\w+) \| (\d+) \| (\d\.\d\d) \|$", page, re.MULTILINE)
    assert len(lines) == sum(what.startswith("floor") for what in rows.index)
    for network, precision, floor, ratio in lines:
        of = f"({network}, 128 px, {precision}, 2 slots)"
        assert (f"{rows[f'floor {of}']:.0f}", f"{rows[f'fit ÷ floor {of}']:.2f}") == (floor, ratio)
    for what in ("channels last", "precision by trying"):
        found = [value for name, value in rows.items() if name.startswith(what)]
        assert f"{min(found):.2f} to {max(found):.2f} times" in page


def test_which_network_is_quickest_is_what_the_tables_hold():
    tables = [
        pd.read_csv(ROOT / f"results/evidence/{name}.csv")
        for name in ("backbones", "backbones_h200")
    ]
    page = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    lines = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if re.match(r"\| `.*` \| \d+ px \| 0", line)
    ]
    assert len(lines) == 4
    for backbone, side, f1, average_precision, epochs, seconds in lines:
        on_cpu, on_gpu = (each[each["network"] == f"{backbone}, {side}"] for each in tables)
        rows = on_gpu if epochs.endswith("cut") else on_cpu
        assert rows["is_finished"].all() != epochs.endswith("cut")
        best = rows.groupby("seed")[["val_f1", "val_average_precision"]].max().mean()
        assert [f1, average_precision] == [f"{value:.3f}" for value in best]
        assert int(epochs.split(",")[0]) == rows["epoch"].max()
        assert seconds == ("" if on_cpu.empty else f"{on_cpu['seconds'].min():.0f}")


def test_speeds_on_a_gpu_are_those_of_the_table():
    rows = pd.read_csv(ROOT / "results/benchmarks/2026-11-27-h200.csv").set_index("what")["value"]
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(.+)` \| (\d+) px \| ([\d,]+) \| (\d\.\d\d) \|$", page, re.MULTILINE)
    assert len(lines) == 4
    for network, side, speed, ratio in lines:
        (fit,) = (what for what in rows.index if what.startswith(f"fit ({network}, {side} px"))
        assert (f"{rows[fit]:,.0f}", f"{rows[fit.replace('fit', 'fit ÷ floor')]:.2f}") == (
            speed,
            ratio,
        )
    two, four = (rows[f"a search with --trials-per-gpu {n} ÷ with 1"] for n in (2, 4))
    assert f"did {two:.2f} times the images of one, and four {four:.2f} times" in page


def test_what_small_batches_gain_on_a_cpu_is_what_the_table_holds():
    rows = pd.read_csv(ROOT / "results/benchmarks/2026-11-28.csv").set_index("what")["value"]
    gains = rows[rows.index.str.contains("÷")].sort_values()
    page = " ".join((ROOT / "docs/speed.md").read_text(encoding="utf-8").split())
    assert f"that is {gains.iloc[0]:.2f} (MobileNetV4) to {gains.iloc[-1]:.2f} times (Eff" in page
    assert "mobilenetv4" in gains.index[0]
    assert "efficientnet_lite0" in gains.index[-1]
    (squeezenet,) = gains[gains.index.str.contains("squeezenet")]
    assert f"{squeezenet:.2f} times with SqueezeNet" in page


def test_the_readme_is_short_and_its_pictures_are_small():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    pictures = [ROOT / path for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)]
    assert pictures
    assert sum(picture.stat().st_size for picture in pictures) < 600_000
