"""A figure reaches the run's folder and every W&B logger."""

from types import SimpleNamespace

from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from callbacks.evaluation.zero_shot_evaluation import publish_figure
from figures.confusion import confusion_figure


def test_figures_go_to_the_folder_and_to_every_wandb_logger(tmp_path):
    class Recorder(WandbLogger):
        def __init__(self):
            self.calls = []

        def log_image(self, key, images, step=None):
            self.calls.append((key, images, step))

    loggers = [Recorder(), object(), Recorder()]
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), loggers=loggers, global_step=7)
    path = publish_figure(confusion_figure([[1, 0], [0, 1]], ["a", "b"], "t"), trainer, "student-planes")
    assert path == tmp_path / "plots" / "student-planes.png"
    assert Image.open(path).format == "PNG"
    assert loggers[0].calls == loggers[2].calls == [("plots/student-planes", [str(path)], 7)]
    assert [file.name for file in path.parent.iterdir()] == ["student-planes.png"]
