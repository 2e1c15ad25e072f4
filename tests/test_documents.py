"""What the documents print is what the tables of `results/` hold."""

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
COLUMNS = ["test_f1", "test_precision", "test_recall", "test_average_precision"]


def test_the_results_in_the_readme_are_those_of_the_tables():
    evidence = pd.read_csv(ROOT / "results/evidence/sdnet2018-46photos.csv")[COLUMNS]
    recipes = pd.read_csv(ROOT / "results/recipes.csv").set_index("recipe")[COLUMNS]
    figures = pd.DataFrame(
        {
            "ensemble": evidence.iloc[0],
            "best single network": evidence.iloc[1],  # beside the ensemble, in validation's order
            "recipe `sdnet2018-baseline`": recipes.loc["sdnet2018-baseline"],
            "recipe `small-cnn`": recipes.loc["small-cnn"],
        }
    )
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for name, values in figures.items():
        (line,) = (line for line in lines if line.startswith(f"| {name}"))
        assert re.findall(r"\d\.\d{3}", line) == [f"{value:.3f}" for value in values]


def test_the_readme_is_short_and_its_pictures_are_small():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    pictures = [ROOT / path for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)]
    assert pictures
    assert sum(picture.stat().st_size for picture in pictures) < 600_000
