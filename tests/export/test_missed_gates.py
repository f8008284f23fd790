"""What becomes of an export when a variant misses its gate: exact forms fail it, smaller weights are left out."""

import json

import pytest
import yaml

from datamodules.protocol import Protocol
from export import Options, export_student, read_export
from export.parity import DROPPED, EMULATED, FAILED, OK, read_gates


def test_a_missed_gate_names_the_row_and_keeps_the_files_where_no_reader_takes_them(
    student, corpus, source, tmp_path
):
    gates = read_gates()
    gates["float32-classifier"]["difference_max"] = -1.0
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(gates))
    options = Options(
        skip=["coreml", "int8"],
        frames=3,
        spacings=["0.30"],
        only_spacings=True,
        gates=str(tmp_path / "gates.yaml"),
    )
    target = tmp_path / "run" / "export"
    kept = target.with_name("export-failed")
    line = (
        rf"^export: row onnx-planes: difference [^\n]*; its files and parity.json are kept in {kept} [^\n]*$"
    )
    with pytest.raises(ValueError, match=line):
        export_student(student, corpus, Protocol.load(), target, options, dict(source))
    assert list(target.parent.iterdir()) == [kept]
    rows = {row["variant"]: row["status"] for row in json.loads((kept / "parity.json").read_text())["rows"]}
    assert (rows["onnx-planes"], rows["onnx-fp32"]) == (FAILED, OK)
    assert (kept / "planes_classifier.onnx").is_file()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        read_export(kept)


def test_smaller_weights_that_miss_their_gate_are_left_out_and_the_export_ends_well(
    student, corpus, source, tmp_path, capsys
):
    gates = read_gates()
    gates["compressed"]["points_lost_max"] = -1000.0  # no variant gains ten times the scale
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(gates))
    options = Options(
        skip=[
            "coreml-fp32",
            "coreml-gray",
            "coreml-planes",
            "coreml-subplanes",
            "coreml-palette8",
            "coreml-int8",
        ],
        frames=3,
        coreml_frames=2,
        calibration_frames=2,
        spacings=["0.30"],
        only_spacings=True,
        gates=str(tmp_path / "gates.yaml"),
    )
    trained = dict(source) | {"weights": "trained"}
    export = export_student(student, corpus, Protocol.load(), tmp_path / "export", options, trained)
    rows = {row["variant"]: row for row in json.loads((export.folder / "parity.json").read_text())["rows"]}
    left_out = [name for name in ("coreml-palette6", "onnx-int8") if name in rows]
    assert left_out == ["coreml-palette6", "onnx-int8"]
    printed = capsys.readouterr().out
    for name in left_out:
        assert rows[name]["status"] == DROPPED
        assert rows[name]["figures"]["cosine_min"] < 1, "what it measured stays"
        assert "limit -1000" in rows[name]["note"]
        assert name not in export.manifest["artifacts"]
        assert f"left out {name}: " in printed
    assert "coreml-palette6-on-device" not in rows
    assert (rows["onnx-fp32"]["status"], rows["coreml-fp16"]["status"]) == (OK, EMULATED)
    names = {path.name for path in export.folder.iterdir()}
    assert "image_encoder.mlpackage" in names
    assert not names & {"image_encoder_palette6.mlpackage", "image_encoder_int8.onnx"}
    golden = json.loads((export.folder / "golden" / "golden.json").read_text())
    assert all("packages" not in row for row in golden["rows"])
