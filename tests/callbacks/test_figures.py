from types import SimpleNamespace

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from callbacks.figures import confusion_figure, growth_chart_figure, publish_figure, reliability_figure


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_growth_chart_counts_what_it_shows():
    age = np.array([24 * 7, 24 * 7, 20 * 7, 30 * 7])
    hc = np.array([222.0, 300.0, 50.0, 280.0])
    axes = growth_chart_figure(age, hc, "title").axes[0]
    assert {"not assessed (1)", "outside the chart (1)", "within the chart (2)"} <= set(labels(axes))
    assert axes.get_title(loc="left") == "title"
    assert axes.get_ylim()[0] <= 50.0


def test_confusion_shows_shares_counts_and_only_classes_that_matter():
    matrix = [[3, 1, 0, 0], [0, 4, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    figure = confusion_figure(matrix, ["a", "b", "never", "absent"], {"a": 0.8, "b": 0.75}, "student")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "absent *"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a (4)\nF1 0.80", "b (6)\nF1 0.75"]
    assert [text.get_text() for text in axes.texts] == ["75%\n3", "25%\n1", "0", "0", "67%\n4", "33%\n2"]
    assert "n = 10, macro F1 0.775" in axes.get_title()


def test_reliability_shows_every_bin():
    bins = [
        {"confidence": 0.3, "accuracy": 0.5, "count": 4},
        {"confidence": 0.9, "accuracy": 0.7, "count": 40},
    ]
    axes = reliability_figure(bins, 0.2, "student").axes[0]
    dots = axes.collections[1]
    assert dots.get_offsets().tolist() == [[0.3, 0.5], [0.9, 0.7]]
    assert dots.get_sizes().tolist() == [58.0, 400.0]
    assert "error 0.200" in axes.get_title(loc="left")


def test_figures_go_to_the_folder_and_to_every_wandb_logger(tmp_path):
    class Recorder(WandbLogger):
        def __init__(self):
            self.calls = []

        def log_image(self, key, images, step=None):
            self.calls.append((key, images, step))

    loggers = [Recorder(), object(), Recorder()]
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), loggers=loggers, global_step=7)
    figure = confusion_figure([[1, 0], [0, 1]], ["a", "b"], {"a": 1.0, "b": 1.0}, "t")
    path = publish_figure(figure, trainer, "student-planes")
    assert path == tmp_path / "plots" / "student-planes.png"
    assert Image.open(path).format == "PNG"
    assert loggers[0].calls == loggers[2].calls == [("plots/student-planes", [str(path)], 7)]
    assert [file.name for file in path.parent.iterdir()] == ["student-planes.png"]
