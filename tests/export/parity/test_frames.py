"""The frames that judge an export are spread over each benchmark, and are what an app sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.evaluation.dataset import printed_spacing
from export.parity.frames import evaluation_frames
from models.preprocessing import resize_padded


@pytest.mark.parametrize(("split", "places"), [("all", (0, 0.5, 1)), ("train", (0, 1))])
def test_few_frames_are_spread_evenly_over_each_benchmark_of_the_split(corpus, student, split, places):
    frames = evaluation_frames(corpus, student.preprocessing, split, len(places))
    for name in corpus.benchmarks:
        every = [record.name for record in corpus.evaluation_records(name, split)]
        wanted = [every[round(place * (len(every) - 1))] for place in places]
        assert [frames.records[row].name for row in frames.rows[name]] == wanted


def test_a_frame_of_two_benchmarks_is_embedded_once(corpus, student):
    frames = evaluation_frames(corpus, student.preprocessing, "all")
    names = [(record.corpus, record.name) for record in frames.records]
    assert len(set(names)) == len(names) < sum(map(len, frames.rows.values()))
    for name, rows in frames.rows.items():
        wanted = [(record.corpus, record.name) for record in corpus.evaluation_records(name, "all")]
        assert [names[row] for row in rows] == wanted


def test_whole_frames_are_those_of_the_batches(corpus, student):
    frames = evaluation_frames(corpus, student.preprocessing, "test", 2)
    pixels = np.concatenate(list(frames.batches()))
    for frame, prepared in zip(frames.whole(), pixels, strict=True):
        resized = resize_padded(frame, student.preprocessing)
        np.testing.assert_array_equal(prepared, resized.transpose(2, 0, 1))


def test_embeddings_of_heads_come_with_the_spacings_of_the_same_frames(corpus, student):
    frames = evaluation_frames(corpus, student.preprocessing, "all", 7)
    pixels = np.concatenate(list(frames.batches()))
    found, spacings = frames.embedded_heads(lambda batch: batch.mean(axis=(2, 3)))
    rows = frames.rows["hc18"]
    np.testing.assert_array_equal(found.numpy(), pixels[rows].mean(axis=(2, 3)))
    assert spacings == [printed_spacing(frames.records[row], student.preprocessing) for row in rows]
    assert len(set(spacings)) > 1
    planes = replace(frames, rows={"planes": frames.rows["planes"]})
    for nothing, none in (frames.embedded_heads(None), planes.embedded_heads(lambda batch: batch)):
        assert (torch.numel(nothing), none) == (0, [])
