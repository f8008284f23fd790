"""A missed gate of an exact variant fails the export; a variant with smaller weights is left out."""

import json
from dataclasses import replace

import pytest
import yaml

from export import Options, build, export_student, read_export
from export.graphs.litert_file import litert_installed
from export.parity.ledger import DROPPED, FAILED, OK, GateFailedError, read_gates
from export.runners import NO_LITERT


def test_a_missed_gate_names_the_row_and_keeps_the_files_where_no_reader_takes_them(
    converted, subject, tmp_path
):
    gates = read_gates()
    gates["float32-classifier"]["difference_max"] = -1.0
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(gates))
    options = Options(
        skip=["coreml", "int8"],
        frames=3,
        spacings=[0.30],
        only_spacings=True,
        gates=str(tmp_path / "gates.yaml"),
    )
    target = tmp_path / "run" / "export"
    kept = target.with_name("export-failed")
    line = (
        rf"^export: row onnx-planes: difference [^\n]*; the files and parity.json are kept in {kept} [^\n]*$"
    )
    with pytest.raises(GateFailedError, match=line):
        export_student(subject, target, options)
    assert list(target.parent.iterdir()) == [kept]
    rows = {row["variant"]: row["status"] for row in json.loads((kept / "parity.json").read_text())["rows"]}
    assert (rows["onnx-planes"], rows["onnx-fp32"]) == (FAILED, OK)
    assert (kept / "planes_classifier.onnx").is_file()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        read_export(kept)


def test_a_label_without_prompts_is_one_line_before_anything_is_converted(
    subject, corpus, tmp_path, monkeypatch
):
    records = {name: corpus.evaluation_records(name, "test") for name in corpus.benchmarks}
    records["planes"] = [
        replace(one, plane="spine") if one.plane == "femur" else one for one in records["planes"]
    ]
    monkeypatch.setattr(corpus, "evaluation_records", lambda name, _: records[name])
    options = Options(skip=["coreml", "int8"], spacings=[0.30], only_spacings=True)
    line = r"^benchmark planes: no prompts for spine, which its images are labelled with[^\n]*$"
    with pytest.raises(ValueError, match=line):
        export_student(subject, tmp_path / "export", options)
    assert list(tmp_path.iterdir()) == []


def test_smaller_weights_that_miss_their_gate_are_left_out_and_the_export_ends_well(
    converted, subject, tmp_path, capsys, monkeypatch
):
    gates = read_gates()
    gates["compressed"]["points_lost_max"] = -1000.0  # no variant gains ten times the scale
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(gates))
    options = Options(
        skip=["coreml"],
        frames=3,
        calibration_frames=2,
        spacings=[0.30],
        only_spacings=True,
        gates=str(tmp_path / "gates.yaml"),
    )
    trained = replace(subject, source=subject.source | {"weights": "trained"})
    answered, copy_golden = [], build.write_golden

    def write_golden(folder, preprocessing, embed, variants, *given):
        answered.extend(variant.name for variant in variants)
        copy_golden(folder)

    monkeypatch.setattr(build, "write_golden", write_golden)
    export = export_student(trained, tmp_path / "export", options)
    rows = {row["variant"]: row for row in json.loads((export.folder / "parity.json").read_text())["rows"]}
    row = rows["onnx-int8"]
    assert row["status"] == DROPPED
    assert row["figures"]["cosine_min"] < 1, "what it measured stays"
    assert "limit -1000; one of 3 frames weighs 33 points: judge by more" in row["note"]
    assert "onnx-int8" not in export.manifest["artifacts"]
    printed = capsys.readouterr().out
    assert "left out onnx-int8: " in printed
    assert ("converting to LiteRT" in printed) == litert_installed()
    assert litert_installed() or rows["litert-int8"]["note"] == NO_LITERT
    assert rows["onnx-fp32"]["status"] == OK
    assert not (export.folder / "image_encoder_int8.onnx").exists()
    assert answered == ["onnx-fp32"], (
        "no golden answers of what does not ship, and none twice of a classifier"
    )
    card = (export.folder / "MODEL_CARD.md").read_text()
    assert "Judged by custom limits" in card
    assert "compressed {'points_lost_max': -1000.0}" in card


class ChosenError(Exception):
    """What frames were asked for."""


def test_the_frames_that_judge_are_those_of_the_split_and_number_asked_for(
    subject, student, corpus, tmp_path, monkeypatch
):
    def frames(data, preprocessing, split, limit):
        assert (data, preprocessing) == (corpus, student.preprocessing)
        raise ChosenError(split, limit)

    monkeypatch.setattr(build, "evaluation_frames", frames)
    with pytest.raises(ChosenError) as chosen:
        export_student(subject, tmp_path / "export", Options(split="all", frames=7))
    assert chosen.value.args == ("all", 7)
