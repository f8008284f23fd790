"""What an evaluation on all benchmarks leaves in W&B's own binary log, with the evaluations' real callbacks."""

import io
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks import (
    BestMetrics,
    BiometryEvaluation,
    CompositeScore,
    EvaluationMedia,
    PlaneEvaluation,
    ProbeBatch,
    WandbRun,
)
from callbacks.tracking.logger_media import log_table
from callbacks.tracking.probe import COLUMNS
from metrics.benchmarks import BENCHMARKS
from tests.callbacks.tiny import quiet_trainer
from tests.callbacks.wandb_log import MEDIA, NUMBERS, WandbLog
from tests.callbacks.zero_shot_fakes import PROTOCOL, SIZE, FakeData, FakeModule, LetterEncoder
from tests.conftest import write_image

PAIRS, SAMPLES, CONFUSED = 12, 3, 4


class LoggedData(FakeData):
    """All benchmarks, with image files to show, and validation pairs to confuse."""

    simulated = True

    def __init__(self, folder):
        super().__init__(BENCHMARKS)
        self.image = folder / "image.png"
        write_image(self.image, seed=0)

    def evaluation_records(self, benchmark, split):
        return [replace(record, image=self.image) for record in super().evaluation_records(benchmark, split)]

    def val_dataloader(self):
        images = torch.rand(PAIRS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
        tokens = LetterEncoder().tokenize([f"caption {i}" for i in range(PAIRS)])
        towers = {f"{role}_image": images for role in ("student", "teacher")}
        towers |= {f"{role}_tokens": tokens for role in ("student", "teacher")}
        pairs = [
            {name: values[i] for name, values in towers.items()}
            | {"caption_id": i, "name": f"image-{i}.png", "plane": "brain"}
            for i in range(PAIRS)
        ]
        return DataLoader(pairs, batch_size=PAIRS)


class LossLogged(FakeModule):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss/total", torch.tensor(0.5), batch_size=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two epochs of two steps, each evaluated."""
    folder = tmp_path_factory.mktemp("run")
    logger = WandbLogger(project="test", save_dir=folder, offline=True, mode="offline")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # as experiments.runs.loggers sets it
    others = [TensorBoardLogger(folder, name="board"), MLFlowLogger(save_dir=str(folder / "mlflow"))]
    trainer = quiet_trainer(
        folder,
        PlaneEvaluation(protocol=PROTOCOL),
        BiometryEvaluation(protocol=PROTOCOL),
        CompositeScore(),
        BestMetrics(),
        EvaluationMedia(samples=SAMPLES),
        WandbRun(),
        ProbeBatch(count=CONFUSED),
        logger=[logger, *others],
        max_epochs=2,
        num_sanity_val_steps=1,
        log_every_n_steps=1,
    )
    trainer.fit(LossLogged(), datamodule=LoggedData(folder))
    logger.experiment.finish()
    return folder, WandbLog.only_one(folder)


def test_every_evaluation_logs_its_numbers_and_its_pictures(finished):
    folder, log = finished
    log.check_evaluations([1, 3], folder)


def test_intervals_lie_around_their_scores(finished):
    log = finished[1]
    for score, low, high in (
        ("planes/f1", "planes/f1_ci_low", "planes/f1_ci_high"),
        ("subplanes/f1", "subplanes/f1_ci_low", "subplanes/f1_ci_high"),
        ("hc18/validity", "hc18/validity_ci_low", "hc18/validity_ci_high"),
    ):
        for prefix in ("val", "val/teacher"):
            values = [log.series(f"{prefix}/{key}")[0][1] for key in (low, score, high)]
            assert values == sorted(values), score
            assert values[0] < values[2], score


def test_sample_images_say_what_they_are_and_what_was_made_of_them(finished):
    log = finished[1]
    for benchmark in BENCHMARKS:
        said = [captions for _, captions in log.series(f"evaluation/{benchmark}-samples/captions")]
        assert [len(captions) for captions in said] == [SAMPLES, SAMPLES]
        assert all("predicted" in caption for captions in said for caption in captions)
        names = [[caption.split(":")[0] for caption in captions] for captions in said]
        assert names[0] == names[1], "the same images every time"
        assert len(set(names[0])) == SAMPLES


def test_the_table_of_confused_pairs_shows_them(finished):
    folder, log = finished
    assert [rows for _, rows in log.series("probe/confusing_pairs/nrows")] == [CONFUSED, CONFUSED]
    (_, path), *_ = log.series("probe/confusing_pairs/path")
    (file,) = folder.rglob(f"files/{path}")
    content = json.loads(file.read_text())
    assert content["columns"] == ["picture", "confused_picture", *COLUMNS]
    assert len(content["data"]) == CONFUSED
    # The file has words in place of pictures; those are in the artifact that W&B keeps of the table.
    tables = [record.artifact for record in log.records if record.artifact.type == "run_table"]
    assert len(tables) == 2
    pictures = [entry.path for entry in tables[0].manifest.contents if entry.path.endswith(".jpg")]
    assert CONFUSED < len(pictures) <= 2 * CONFUSED


def test_all_of_it_is_drawn_over_the_optimiser_step(finished):
    axes = finished[1].metric_axes
    assert {axes[f"{key.split('/')[0]}/*"] for key in (*NUMBERS, *MEDIA)} == {"trainer/global_step"}


def test_tensorboard_shows_the_pictures_and_the_table(finished):
    (events,) = (finished[0] / "board").rglob("events.*")
    board = EventAccumulator(str(events), size_guidance={"images": 0}).Reload()
    tags = board.Tags()
    figures = {f"evaluation/{benchmark}" for benchmark in BENCHMARKS}
    assert set(tags["images"]) == figures | {f"{name}-samples" for name in figures}
    for name in tags["images"]:
        assert [image.step for image in board.Images(name)] == [1, 3], name
    picture = Image.open(io.BytesIO(board.Images("evaluation/planes")[0].encoded_image_string))
    assert len(picture.getcolors(10**6)) > 10, "a drawing, not a blank"
    table = board.Tensors("probe/confusing_pairs/text_summary")[0].tensor_proto.string_val[0].decode()
    assert len(table.splitlines()) == 2 + CONFUSED
    assert table.startswith(f"| {COLUMNS[0]} |")
    assert [event.step for event in board.Scalars("val/planes/f1")] == [1, 3]


def test_mlflow_holds_the_pictures_and_the_table(finished):
    client = MlflowClient(f"file:{finished[0] / 'mlflow'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    pictures = [
        file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")
    ]
    for benchmark in BENCHMARKS:
        own = [path for path in pictures if f"evaluation~{benchmark}+" in path]
        samples = [path for path in pictures if f"evaluation~{benchmark}-samples~" in path]
        assert (len(own), len(samples)) == (2, 2 * SAMPLES), pictures
    tables = sorted(file.path for file in client.list_artifacts(run.info.run_id, "probe"))
    assert tables == ["probe/confusing_pairs-1.json", "probe/confusing_pairs-3.json"]
    content = json.loads(next((finished[0] / "mlflow").rglob("confusing_pairs-1.json")).read_text())
    assert (content["columns"], len(content["data"])) == (list(COLUMNS), CONFUSED)
    assert [one.step for one in client.get_metric_history(run.info.run_id, "val/planes/f1")] == [1, 3]


def test_a_name_of_the_data_is_no_markup_in_a_table(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="")
    trainer = SimpleNamespace(loggers=[logger], is_global_zero=True)
    log_table(trainer, "t", ["name", "share"], [["<script>a|b</script>\nc", 0.5]], 0)
    logger.experiment.close()
    (events,) = tmp_path.rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    text = board.Tensors("t/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2] == "| &lt;script&gt;a&#124;b&lt;/script&gt; c | 0.5 |"
