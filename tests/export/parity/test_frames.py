"""Evaluation and calibration frames of an export, and the spacings of its corpus."""

from dataclasses import replace

import pytest

from export.parity.frames import calibration_pixels, corpus_spacings, evaluation_frames


def test_a_corpus_without_a_benchmark_cannot_judge(corpus, student, monkeypatch):
    monkeypatch.setattr(corpus, "benchmarks", ())
    with pytest.raises(ValueError, match="no benchmark to judge an export by"):
        evaluation_frames(corpus, student.preprocessing)


def test_training_images_without_a_pixel_size_add_no_spacing(corpus, student, monkeypatch):
    whole = corpus_spacings(corpus, student.preprocessing)
    first, *others = corpus.evaluation_records("hc18", "all")
    alone = replace(first, pixel_size_mm=first.pixel_size_mm * 3)
    records = {"without": [replace(alone, pixel_size_mm=None), *others], "with": [alone, *others]}
    found = {}
    for case, given in records.items():
        monkeypatch.setattr(corpus, "evaluation_records", lambda *_, given=given: given)
        found[case] = set(corpus_spacings(corpus, student.preprocessing))
    assert found["without"] <= set(whole)
    assert len(found["with"] - found["without"]) == 1


def test_int8_is_calibrated_on_validation_frames_where_training_images_are_in_shards(
    corpus, student, monkeypatch
):
    monkeypatch.setattr(corpus, "split", lambda *_: [])
    assert calibration_pixels(corpus, student.preprocessing, 3).shape == (3, 3, 64, 64)
    monkeypatch.setattr(corpus, "candidates", lambda *_: [])
    with pytest.raises(ValueError, match=r"^int8: no frame to calibrate on[^\n]*--skip=int8$"):
        calibration_pixels(corpus, student.preprocessing, 3)
