"""The whole pass over student and teacher, against separate computations on the same embeddings."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from callbacks import RepresentationEvaluation
from callbacks.evaluation import representation_evaluation
from callbacks.evaluation.embedding_pass import embed
from datamodules import FetalPlanesDataModule, HC18DataModule
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.transforms import normalise
from metrics.geometry import class_distance_ratio, effective_rank, linear_cka
from metrics.names import GROUPS
from models import DualEncoder, Preprocessing
from models.preprocessing import resize_padded
from tests.callbacks.tiny import quiet_trainer
from tests.conftest import write_planes
from tests.metrics.two_processes import run_in_two_processes

SIZE = 16


class PixelEncoder(DualEncoder):
    """Random projections of pixels and of bags of tokens."""

    def __init__(self, seed=0, dim=12, size=SIZE):
        super().__init__()
        self.preprocessing = Preprocessing(size, (0, 0, 0), (1, 1, 1), tokenizer="fetal", context_length=32)
        self.embed_dim = dim
        generator = torch.Generator().manual_seed(seed)
        self.image = nn.Parameter(torch.randn(3 * size * size, dim, generator=generator))
        self.text = nn.Parameter(torch.randn(2000, dim, generator=generator))
        self.scale = nn.Parameter(torch.zeros(()))
        self.dtypes = set()

    def image_features(self, image):
        features = (image - 0.2).flatten(1) @ self.image
        self.dtypes.add(features.dtype)
        return features

    def text_features(self, tokens):
        return self.text[tokens].sum(dim=1)

    @property
    def log_logit_scale(self):
        return self.scale

    def init_args(self):
        return {}


class Pair(LightningModule):
    def __init__(self, teacher=True, teacher_size=SIZE):
        super().__init__()
        self.student = PixelEncoder(seed=1)
        self.teacher = PixelEncoder(seed=2, dim=20, size=teacher_size).eval() if teacher else None

    def test_step(self, batch, batch_idx):
        return None


def evaluate(folder, data, teacher=True, teacher_size=SIZE, precision="32-true", **options):
    evaluation, module = RepresentationEvaluation(enabled=True, **options), Pair(teacher, teacher_size)
    trainer = quiet_trainer(folder, evaluation, precision=precision)
    trainer.test(module, datamodule=data, verbose=False)
    return evaluation, module, data


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planes")
    data = FetalPlanesDataModule(str(write_planes(folder)), num_workers=0, evaluation_batch_size=7)
    return evaluate(folder / "run", data, probe_split="all")


def test_every_promised_number_is_there(planes):
    metrics = planes[0].final_metrics
    assert {name.partition("/")[0] for name in metrics} == {"student", "teacher", "geometry"} <= set(GROUPS)
    for model in ("student", "teacher"):
        for task in ("views", "subplanes"):
            assert 0 <= metrics[f"{model}/probe/{task}_f1"] <= 1
            assert metrics[f"{model}/probe/{task}_f1_std"] >= 0
        for direction in ("image_to_text", "text_to_image"):
            recalls = [metrics[f"{model}/retrieval/{direction}_r{k}"] for k in (1, 5, 10)]
            assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1
        assert 1 <= metrics[f"geometry/{model}/effective_rank"] <= 20
        assert metrics[f"geometry/{model}/class_distance_ratio"] > 0
    assert 0 < metrics["geometry/cka"] < 1
    assert -1 <= metrics["geometry/off_diagonal_correlation"] <= 1
    views = planes[0].results["student"]["probe"]["views"]
    assert "other" in views["classes"], "six views, not five"
    assert len(views["classes"]) == 6
    assert views["total"] == 72
    assert "other" not in planes[0].results["student"]["probe"]["subplanes"]["classes"]


def prepared(path, model):
    return normalise(resize_padded(read_image(path), model.preprocessing), model.preprocessing)


def test_an_official_probe_is_fitted_and_scored_on_the_tables_own_sides(tiny_planes, tmp_path):
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
    evaluation, module, _ = evaluate(tmp_path, data, probe_split="official", probe_seeds=3, figures=False)
    assert data.split("val"), "validation patients are fitted on too"
    table = (tiny_planes / "FETAL_PLANES_DB_data.csv").read_text().splitlines()[1:]
    rows = [[cell.strip() for cell in line.split(";")] for line in table]
    student = module.student
    pictures = [prepared(tiny_planes / "Images" / f"{row[0]}.png", student) for row in rows]
    with torch.no_grad():
        features = student.encode_image(torch.stack(pictures)).double().numpy()
    brains = ("Trans-thalamic", "Trans-cerebellum", "Trans-ventricular")
    for task, column, counts in (("views", 2, (36, 36)), ("subplanes", 3, (5, 5))):
        own = [place for place, row in enumerate(rows) if task == "views" or row[column] in brains]
        taught, tested = ([place for place in own if rows[place][6] == flag] for flag in "10")
        assert (len(taught), len(tested)) == counts

        def score(places, column=column, tested=tested):
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            probe.fit(features[places], [rows[place][column] for place in places])
            truth = [rows[place][column] for place in tested]
            guess = probe.predict(features[tested])
            return f1_score(truth, guess, labels=sorted(set(truth)), average="macro", zero_division=0)

        people = sorted({rows[place][1] for place in taught})
        expected = []
        for seed in range(3):
            drawn = [people[at] for at in np.random.default_rng(seed).integers(len(people), size=len(people))]
            expected.append(score([place for one in drawn for place in taught if rows[place][1] == one]))
        found = evaluation.results["student"]["probe"][task]
        assert found["split"] == "official"
        assert (found["n_train"], found["n_test"]) == counts
        assert list(found["f1_by_seed"].values()) == pytest.approx(expected)
        assert found["f1_whole"] == pytest.approx(score(taught))
        metrics = evaluation.final_metrics
        assert metrics[f"student/probe/{task}_f1"] == pytest.approx(np.mean(expected))
        assert metrics[f"student/probe/{task}_f1_std"] == pytest.approx(np.std(expected, ddof=1))


def test_a_probe_has_the_images_of_its_split_and_corpus(tiny_planes, tmp_path):
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
    expected = len(data.split("train"))
    data.records.append(replace(data.split("train")[0], corpus="hc18"))
    evaluation, _, _ = evaluate(tmp_path, data, probe_split="train", probe_seeds=2, figures=False)
    views = evaluation.results["student"]["probe"]["views"]
    assert (views["split"], views["total"], len(views["f1_by_seed"])) == ("train", expected, 2)


def test_geometry_equals_a_computation_from_the_pairs(planes):
    """Captions are those of the test pairs, images are prepared as zero-shot's are."""
    evaluation, module, data = planes
    batches = list(data.test_dataloader())
    assert sum(len(batch["index"]) for batch in batches) == evaluation.results["geometry"]["n_pairs"] == 36
    images, logits, tokens = {}, {}, {}
    with torch.no_grad():
        for role, model in (("student", module.student), ("teacher", module.teacher)):
            pictures = [prepared(record.image, model) for record in data.split("test")]
            images[role] = image = model.encode_image(torch.stack(pictures))
            text = torch.cat([model.encode_text(batch[f"{role}_tokens"]) for batch in batches])
            logits[role] = (image @ text.T).double().numpy()
            tokens[role] = torch.cat([batch[f"{role}_tokens"] for batch in batches]).tolist()
    apart = [
        (i, j) for i in range(36) for j in range(36)
        if tokens["student"][i] != tokens["student"][j] and tokens["teacher"][i] != tokens["teacher"][j]
    ]  # fmt: skip
    off = [np.array([logits[role][pair] for pair in apart]) for role in logits]
    metrics = evaluation.final_metrics
    assert metrics["geometry/off_diagonal_correlation"] == pytest.approx(np.corrcoef(*off)[0, 1], abs=1e-5)
    diagonals = [np.diag(logits[role]) for role in logits]
    assert metrics["geometry/diagonal_correlation"] == pytest.approx(np.corrcoef(*diagonals)[0, 1], abs=1e-5)
    assert metrics["geometry/cka"] == pytest.approx(
        linear_cka(images["student"], images["teacher"]), abs=1e-5
    )
    planes = [record.plane for record in data.split("test")]
    for role, image in images.items():
        own = {
            "effective_rank": effective_rank(image),
            "class_distance_ratio": class_distance_ratio(image, planes),
        }
        for key, value in own.items():
            assert metrics[f"geometry/{role}/{key}"] == pytest.approx(value, rel=1e-4)
        matches = np.array(tokens[role])[:, None] == np.array(tokens[role])[None]
        same, best = matches.all(axis=2), (logits[role].argmax(axis=1), logits[role].argmax(axis=0))
        for direction, chosen in zip(("image_to_text", "text_to_image"), best, strict=True):
            found = metrics[f"{role}/retrieval/{direction}_r1"]
            assert found == pytest.approx(same[range(36), chosen].mean())


def test_a_students_embeddings_do_not_depend_on_the_teacher_beside_it(tiny_planes, tmp_path):
    found = []
    for size in (SIZE, 3 * SIZE):
        data = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
        evaluation, _, _ = evaluate(tmp_path, data, teacher_size=size, probe_split="all", figures=False)
        student = evaluation.results["student"]["retrieval"], evaluation.results["geometry"]["student"]
        found.append((*student, evaluation.results["geometry"]["cka"]))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2], "the teachers differ"


def test_maps_by_plane_are_drawn(planes):
    plots = Path(planes[2].trainer.default_root_dir) / "plots"
    assert [path.name for path in plots.iterdir()] == ["geometry-planes.png"], "too few brains"
    assert np.asarray(Image.open(plots / "geometry-planes.png").convert("L")).std() > 5


def test_a_student_without_a_teacher_has_no_comparison(tiny_planes, tmp_path):
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
    evaluation, _, _ = evaluate(tmp_path, data, teacher=False, probe_split="all", figures=False)
    assert "geometry/cka" not in evaluation.final_metrics
    assert "geometry/student/effective_rank" in evaluation.final_metrics
    assert not any(name.startswith("teacher") for name in evaluation.final_metrics)
    assert not (tmp_path / "plots").exists()


def test_heads_alone_have_retrieval_and_geometry_but_no_probe(tiny_hc18, tmp_path):
    evaluation, _, _ = evaluate(tmp_path, HC18DataModule(str(tiny_hc18), num_workers=0, test_share=0.5))
    assert not any("/probe/" in name or "class_distance" in name for name in evaluation.final_metrics)
    assert {"student/retrieval/image_to_text_r1", "geometry/cka"} <= set(evaluation.final_metrics)


def test_images_are_embedded_in_float32_where_training_runs_in_half_precision(tiny_hc18, tmp_path):
    data = HC18DataModule(str(tiny_hc18), num_workers=0, test_share=0.5)
    evaluation, module, _ = evaluate(tmp_path, data, precision="bf16-mixed")
    assert module.student.dtypes == module.teacher.dtypes == {torch.float32}
    assert evaluation.results["student"]["retrieval"]["n_scored"] > 0


def test_training_runs_skip_it():
    evaluation = RepresentationEvaluation()
    evaluation.on_test_epoch_end(SimpleNamespace(), SimpleNamespace())
    assert evaluation.final_metrics == {}


def test_thinning_keeps_pairs_together(tiny_planes, tmp_path, monkeypatch):
    monkeypatch.setattr(representation_evaluation, "MOST_PAIRS", 10)
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
    evaluation, module, _ = evaluate(tmp_path, data, probe_split="all", figures=False)
    assert evaluation.results["geometry"]["n_pairs"] == 9  # every fourth of 36
    records = data.split("test")[::4]
    with torch.no_grad():
        images = embed(module.student.eval(), records, 9, 0)["image"]
    ratio = class_distance_ratio(images, [record.plane for record in records])
    assert evaluation.results["geometry"]["student"]["class_distance_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert evaluation.results["student"]["retrieval"]["n_scored"] == 36


@pytest.mark.parametrize("options", [{"probe_split": "tset"}, {"probe_seeds": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RepresentationEvaluation(**options)


def _embed(rank, root, expected):
    data, model = FetalPlanesDataModule(root, num_workers=0), PixelEncoder(seed=1).eval()
    with torch.no_grad():
        found = embed(model, data.records[:11], 3, 0)["image"]
        pairs = embed(model, data.records[:11], 3, 0, data.seed)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(pairs["image"], expected)


def test_every_process_has_all_features_in_order(tiny_planes, tmp_path):
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
    with torch.no_grad():
        expected = embed(PixelEncoder(seed=1).eval(), data.records[:11], 11, 0)["image"]
    assert expected.unique(dim=0).shape == (11, 12)
    run_in_two_processes(_embed, tmp_path, str(tiny_planes), expected)
