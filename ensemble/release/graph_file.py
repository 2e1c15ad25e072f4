"""An ensemble as one network → a file of ONNX, or a .pt2 of torch.export, with its records in it.

Nothing in it says where it was made: what torch notes of each step, such as the lines of the
program that made it, is left out.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from ensemble.base.errors import InputError
from ensemble.release.graph import INPUT, OUTPUTS, WholeEnsemble
from ensemble.release.records import NO_TIME, as_json
from ensemble.run.exported import CONTENTS, GRAPH, Contents, check_exported
from ensemble.run.onnx_file import NO_ONNX
from ensemble.run.pt2_file import EXTRA
from ensemble.selection.ensemble import Ensemble, load_ensemble

TOLERANCE = 1e-4  # of a probability, between a file and the ensemble it was made of
MAX_ONNX_BYTES = 2**31 - 2**26  # a protocol buffer has at most 2 GiB, some of it for the graph
NUM_CHECKED = 3


def check_can_write(form: str) -> None:
    """Make sure, before any work, that what writes files of this form is installed.

    Raises:
        InputError: It is not.
    """
    if form != "onnx":
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--format onnx: {error.name} is not installed; {NO_ONNX}") from None


def check_fits(network: WholeEnsemble, form: str) -> None:
    """Make sure that a file of this form can hold the weights.

    Raises:
        InputError: It cannot.
    """
    held = sum(tensor.nbytes for tensor in network.state_dict().values())
    if form == "onnx" and held > MAX_ONNX_BYTES:
        raise InputError(
            f"--format onnx: the weights take {held / 1e9:.1f} GB, and one file of ONNX holds 2 GB "
            "at most; --format pt2 and --format zip have no such limit"
        )


def describe_call(network: WholeEnsemble, ensemble: Ensemble) -> dict[str, Any]:
    """How the graph is called, and by what its answer is judged: a part of `graph.json`.

    Args:
        network: The ensemble as one network.
        ensemble: The ensemble.
    """
    alone = ensemble.alone
    calibrated = ensemble.calibrated_threshold
    return {
        "input": {
            "name": INPUT,
            "shape": ["N", *network.window_px, 3],
            "dtype": "uint8",
            "colours": "red, green, blue",
        },
        "outputs": OUTPUTS,
        "tile_size_px": [*ensemble.tile_size_px],
        "margin_px": [*network.margin_px],
        "threshold": calibrated,
        "alone_threshold": calibrated if alone is None else alone.calibrated_threshold,
        "computed_in": "float32",
    }


def make_program(network: WholeEnsemble) -> ExportedProgram:
    """Trace the network, for any number of windows.

    Raises:
        InputError: A network cannot be traced.
    """
    example = torch.zeros(2, *network.window_px, 3, dtype=torch.uint8)
    try:
        return torch.export.export(
            network, (example,), dynamic_shapes={INPUT: {0: Dim("batch", min=1)}}
        )
    except Exception as error:  # whatever the network's own code raises while it is traced
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise InputError(
            f"torch.export cannot trace a member's network ({reason}); --format zip takes every one"
        ) from None


def write_onnx(path: Path, program: ExportedProgram, records: Mapping[str, bytes]) -> None:
    """Write a file of ONNX, with the records behind its graph."""
    import onnx

    made = torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=[*OUTPUTS], verbose=False
    )
    assert made is not None
    model = made.model_proto
    _leave_out_notes(model)
    body = model.SerializeToString(deterministic=True)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in records.items()}
    contents = Contents(sha256={GRAPH: hashlib.sha256(body).hexdigest(), **digests})
    entries = {**records, CONTENTS: as_json(contents.model_dump(mode="json"))}
    behind = onnx.ModelProto(
        metadata_props=[
            onnx.StringStringEntryProto(key=name, value=content.decode())
            for name, content in entries.items()
        ]
    )
    path.write_bytes(body + behind.SerializeToString(deterministic=True))


def _leave_out_notes(model: Any) -> None:
    """Remove what says how and where a graph was made, and name its first dimension N."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")  # onnxruntime finds the shapes in between by itself
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"


def write_pt2(path: Path, program: ExportedProgram, records: Mapping[str, bytes]) -> None:
    """Write a .pt2 of torch.export, with the records among its extra files."""
    for node in program.graph.nodes:
        for note in node.meta.keys() - {"val"}:
            del node.meta[note]
    program.example_inputs = None  # they would be pickled
    buffer = io.BytesIO()
    extra = {name: content.decode() for name, content in records.items()}
    torch.export.save(program, buffer, extra_files=extra)
    with zipfile.ZipFile(buffer, "a") as archive:
        names = archive.namelist()
        root = next(name for name in names if name.endswith("/archive_format"))
        digests = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}
        contents = as_json(Contents(sha256=digests).model_dump(mode="json"))
        place = f"{root.removesuffix('archive_format')}{EXTRA}{CONTENTS}"
        archive.writestr(zipfile.ZipInfo(place, NO_TIME), contents)
    path.write_bytes(buffer.getvalue())


def check_written(file: Path, network: WholeEnsemble, program: ExportedProgram) -> None:
    """Read a file that was written, and compare what it says of a few windows with the ensemble.

    Raises:
        InputError: It is damaged, or says something else.
    """
    check_exported(file)
    written = load_ensemble(file, torch.device("cpu"))
    shape = (NUM_CHECKED, *network.window_px, 3)
    windows = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given = torch.from_numpy(windows)
    expected = network(given)[1].numpy()
    if written.graph is not None:
        said = written.graph.score(windows).T
    else:
        assert len(written.models) == expected.shape[1]
        said = program.module()(given)[1].numpy()
    difference = float(np.abs(said - expected).max())
    if not difference <= TOLERANCE:
        raise InputError(
            f"the exported graph says other probabilities than the ensemble (by {difference:.2g}); "
            "nothing was written; --format zip takes every network"
        )
