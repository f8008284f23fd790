"""Plots of a finished run."""

from types import SimpleNamespace

import numpy as np

from experiments.runs import plots


def test_heads_that_are_not_assessed_are_neither_right_nor_wrong(monkeypatch):
    samples = [
        {"name": name, "target": "", "prediction": "", "correct": correct, "assessed": assessed}
        for name, correct, assessed in (
            ("right", True, True),
            ("wrong", False, True),
            ("small", False, False),
        )
    ]
    records = [SimpleNamespace(name=row["name"], image=row["name"]) for row in samples]
    shown = []
    monkeypatch.setattr(plots, "read_image", lambda image: shown.append(image) or np.zeros((8, 8), np.uint8))
    plots.samples_figure(SimpleNamespace(evaluation_records=lambda *_: records), samples, "hc18")
    assert shown == ["right", "wrong"]
