"""Makes the two pictures of the README from a finished `make demo`.

In: the run of the demo. Out, beside this file: `photograph.webp`, a drawn photograph that the run
has not seen, with what its ensemble found; `report.webp`, the first screen of the run's report. The
second needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from ensemble.data.synthetic import draw_dataset

HERE = Path(__file__).parent
UNSEEN_SEED = 7  # the demo draws with 0
ROWS, COLUMNS, TILE_PX = 6, 8, 128
SURFACE, PHOTOGRAPH = "W", "7072"


def draw_photograph(folder: Path) -> Path:
    """Draws tiles, and lays those of one photograph side by side as the camera saw them."""
    draw_dataset(folder, seed=UNSEEN_SEED, rows=ROWS, columns=COLUMNS, tile_size_px=TILE_PX)
    photograph = Image.new("RGB", (COLUMNS * TILE_PX, ROWS * TILE_PX))
    for path in (folder / SURFACE).rglob(f"{PHOTOGRAPH}-*.jpg"):
        row, column = divmod(int(path.stem.partition("-")[2]) - 1, COLUMNS)
        with Image.open(path) as tile:
            photograph.paste(tile, (column * TILE_PX, row * TILE_PX))
    photograph.save(folder / "photograph.png")
    return folder / "photograph.png"


def show_report(page: Path, picture: Path) -> None:
    """Takes a picture of the page's first screen."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        screen = browser.new_page(viewport={"width": 1120, "height": 820})
        screen.goto(page.resolve().as_uri())
        screen.screenshot(path=str(picture))
        browser.close()


def main(run: Path) -> None:
    """Writes both pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photograph = draw_photograph(folder)
        command = ["-m", "ensemble", "predict", str(run), str(photograph), "--csv"]
        subprocess.run([sys.executable, *command, str(folder / "cracks.csv")], check=True)
        (overlay,) = (folder / "cracks-overlays").glob("*photograph*")
        show_report(run / "report.html", folder / "report.png")
        for source, target in (
            (overlay, "photograph.webp"),
            (folder / "report.png", "report.webp"),
        ):
            with Image.open(source) as picture:
                picture.thumbnail((1120, 1120))
                picture.convert("RGB").save(HERE / target, quality=82, method=6)
            print(HERE / target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
