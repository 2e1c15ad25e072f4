"""How each form of an exported ensemble is used: the part of its card that people copy from.

The lines of Python are run by the tests as they stand here.
"""

from typing import NamedTuple

from ensemble.base.version import __version__


class Form(NamedTuple):
    """What a form of file is called on its card.

    Attributes:
        file: Name that stands for the file.
        use: The section.
    """

    file: str
    use: str


ZIP = "FILE.zip"
WITH_PROGRAM = """
Beside the file you need the program crack-ensemble, version {version}, which runs on Linux with
Python 3.11 or newer. No GPU, no training and no connection to the internet are needed.

    pip install {install}            # a clone of the project, or its wheel
    crack-ensemble predict {file} photographs/

This writes `predictions.csv`, a row a tile, and pictures with the cracked tiles outlined.
`crack-ensemble inspect {file} photographs/` writes pages to look through and to correct. From
Python:

    from ensemble import load_ensemble

    tiles = load_ensemble("{file}").predict("photographs/")  # a DataFrame, a row a tile
    cracked = tiles[tiles["verdict"] == "cracked"]
"""
LOOK = """
`crack-ensemble look PICTURE --member {file}` draws what its best network sees of a tile.
"""
WINDOWS = """
    (height, width), (down, right) = about["tile_size_px"], about["margin_px"]
    pixels = np.asarray(Image.open("photograph.png").convert("RGB"))
    rows, columns = len(pixels) // height, pixels.shape[1] // width
    padded = np.pad(pixels, ((down, down), (right, right), (0, 0)), mode="symmetric")
    windows = np.stack([padded[y:y + height + 2 * down, x:x + width + 2 * right]
                        for y in height * np.arange(rows) for x in width * np.arange(columns)])
"""
ONNX = f"""
Without the program, `onnxruntime`, NumPy and Pillow do:

    import json, numpy as np, onnxruntime
    from PIL import Image

    graph = onnxruntime.InferenceSession("FILE.onnx")
    about = json.loads(graph.get_modelmeta().custom_metadata_map["graph.json"])
{WINDOWS.strip(chr(10))}
    probability, members, alone = graph.run(None, {{"windows": windows}})
    cracked = (probability >= about["threshold"]).reshape(rows, columns)
"""
PT2 = f"""
Without the program, torch, NumPy and Pillow do. Load so only a file that you trust, because
`torch.export.load` runs what a file says; `predict` reads the weights alone, and runs nothing.

    import json, numpy as np, torch
    from PIL import Image

    extra = {{"graph.json": ""}}
    graph = torch.export.load("FILE.pt2", extra_files=extra).module()
    about = json.loads(extra["graph.json"])
{WINDOWS.strip(chr(10))}
    probability, members, alone = graph(torch.from_numpy(windows))
    cracked = (probability >= about["threshold"]).reshape(rows, columns)
"""
GRAPH = """
A window is a tile in the photograph's own pixels with `margin_px` of the photograph around it, and
beyond the rim the mirror image of what lies inside; any number of windows at a time, each of one
size. Of a picture that is a single tile, `alone` and `alone_threshold` count in place of
`probability` and `threshold`. `members` is each network's own probability. The other metadata are
this card, and the records of which crack-ensemble makes the ensemble: `ensemble.json` with weights,
temperature, thresholds and second stage, and a `member.json` each with its settings and the
statistics that its pixels are scaled by.
"""
KINDS = {
    "zip": f"`{ZIP}` is the file that this card lies in, under any name.{WITH_PROGRAM}{LOOK}",
    "onnx": f"`FILE.onnx` is the file that this card lies beside, under any name.{WITH_PROGRAM}"
    f"{ONNX}{GRAPH}",
    "pt2": f"`FILE.pt2` is the file that this card lies beside, under any name.{WITH_PROGRAM}{LOOK}"
    f"{PT2}{GRAPH}",
}


def write_use(form: str) -> str:
    """The section of a card that tells how a file of this form is used."""
    extra = "'./crack-ensemble[onnx]'" if form == "onnx" else "./crack-ensemble"
    text = KINDS[form].replace("{version}", __version__)
    text = text.replace("{install}", extra).replace("{file}", f"FILE.{form}")
    return f"## How to use it\n\n{text}"
