"""The whole chain, file to score, against the published protocol written out image by image."""

import csv
import math

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from callbacks import BiometryEvaluation, PlaneEvaluation
from callbacks.evaluation.embedding_pass import embed
from datamodules import FetalPlanesDataModule, HC18DataModule
from datamodules.evaluation.protocol import Protocol
from metrics import predicted_age_days
from models import TimmEncoder
from models.evaluation_mode import evaluation_mode

SIZE = 48
PLANE_OF = {
    "Fetal brain": "brain", "Fetal abdomen": "abdomen", "Fetal thorax": "heart", "Fetal femur": "femur",
    "Maternal cervix": "cervix",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TimmEncoder(
        "vit_tiny_patch16_224", image_size=SIZE, trunk_args={"depth": 2}, text_layers=1, text_width=48,
        text_heads=2, context_length=32,
    ).eval()  # fmt: skip


def prepared(model, path):
    """Zero-padded to a square and then through open_clip's own evaluation transform, on Pillow images."""
    picture = Image.open(path)
    side = max(picture.size)
    square = Image.new(picture.mode, (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    contract = model.preprocessing
    transform = image_transform(
        SIZE,
        is_train=False,
        mean=contract.mean,
        std=contract.std,
        interpolation="bicubic",
        resize_mode="shortest",
    )
    return transform(square)


@torch.no_grad()
def embedded_image(model, path):
    features = model.image_features(prepared(model, path)[None])
    return features / features.norm(dim=-1, keepdim=True)


@torch.no_grad()
def embedded_texts(model, texts):
    features = model.text_features(model.tokenize(texts))
    return features / features.norm(dim=-1, keepdim=True)


def chart(b, t):
    return math.exp(b[0] + b[1] * t + b[2] * t**2 + b[3] * t**3)


def published_biometry(model, root, templates):
    similarities, ages, sizes = [], [], []
    with (root / "training_set_pixel_size_and_HC.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path = root / "training_set" / row["filename"]
        spacing = max(Image.open(path).size) / SIZE * float(row["pixel size(mm)"])
        per_template = []
        for template in templates:
            texts = [
                template.replace("{weeks}", str(w))
                .replace("{days}", str(d))
                .replace("{spacing}", f"{spacing:.2f}")
                for w in range(14, 39)
                for d in range(7)
            ]
            per_template.append(100 * embedded_image(model, path) @ embedded_texts(model, texts).T)
        similarity = torch.cat(per_template).mean(dim=0).tolist()
        similarities.append(similarity)
        best = sorted(sorted(range(175), key=lambda i: similarity[i], reverse=True)[:15])
        ages.append(14 * 7 + best[7])
        sizes.append(float(row["head circumference (mm)"]))
    kept = [(age, hc) for age, hc in zip(ages, sizes, strict=True) if 100 <= hc <= 342]
    low = (1.59317517131532, 0.29459800552433, -0.0073860372566707, 0.0000656951770216148)
    high = (2.50074069629423, 0.220067854715719, -0.00493623111462443, 0.0000389066000946519)
    valid = np.array([chart(low, age / 7) <= hc <= chart(high, age / 7) for age, hc in kept]).astype(int)
    generator = np.random.default_rng(42)
    means = [generator.choice(valid, size=len(valid), replace=True).mean() for _ in range(10_000)]
    interval = np.percentile(means, [2.5, 97.5]) * 100
    spearman = spearmanr(*zip(*kept, strict=True)).statistic
    return similarities, [valid.mean() * 100, valid.sum(), len(valid), *interval, spearman]


def evaluated(evaluation, data, model, benchmark):
    records = data.evaluation_records(benchmark, "all")
    with evaluation_mode(model) as used:
        images = embed(used, records, data.evaluation_batch_size, data.num_workers)["image"]
        return evaluation.score(used, images, records, benchmark)


def test_biometry_equals_the_published_protocol(model, tiny_hc18, monkeypatch):
    recorded = []

    def recording(similarity):
        recorded.append(similarity)
        return predicted_age_days(similarity)

    monkeypatch.setattr("callbacks.evaluation.biometry_evaluation.predicted_age_days", recording)
    data = HC18DataModule(str(tiny_hc18), num_workers=0, evaluation_batch_size=7)
    details = evaluated(BiometryEvaluation(), data, model, "hc18")
    similarities, expected = published_biometry(model, tiny_hc18, Protocol.load().biometry)
    assert torch.cat(recorded).numpy() == pytest.approx(np.array(similarities), abs=1e-4)
    names = ("validity", "valid", "total", "validity_ci_low", "validity_ci_high", "spearman")
    assert [details[name] for name in names] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("benchmark", ["planes", "subplanes"])
def test_planes_equal_the_published_protocol(model, tiny_planes, benchmark):
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0, evaluation_batch_size=5)
    details = evaluated(PlaneEvaluation(), data, model, benchmark)
    prompts = getattr(Protocol.load(), benchmark)
    vectors = []
    for texts in prompts.values():
        mean = embedded_texts(model, texts).mean(dim=0)
        vectors.append(mean / mean.norm())
    with (tiny_planes / "FETAL_PLANES_DB_data.csv").open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    probabilities, targets = [], []
    for row in rows:
        name = PLANE_OF.get(row["Plane"]) if benchmark == "planes" else row["Brain_plane"].lower()
        if name in prompts:
            image = embedded_image(model, tiny_planes / "Images" / f"{row['Image_name']}.png")
            probabilities.append((100 * image @ torch.stack(vectors).T).softmax(dim=-1))
            targets.append(list(prompts).index(name))
    probability, target = torch.cat(probabilities), torch.tensor(targets)
    assert details["n_scored"] == len(target)
    present = sorted(set(targets))
    count = len(prompts)
    f1 = multiclass_f1_score(probability, target, count, average="none")[present].double().mean()
    assert details["f1"] == pytest.approx(float(f1), abs=1e-6)
    right = (probability.argmax(dim=1) == target).double().mean()
    assert details["accuracy"] == pytest.approx(float(right), abs=1e-6)
    for name, k in (("accuracy", 1), ("top2_accuracy", 2), ("top3_accuracy", 3)):
        if k < count:
            per_class = multiclass_accuracy(probability, target, count, average="none", top_k=k)[present]
            assert details[f"balanced_{name}"] == pytest.approx(float(per_class.double().mean()), abs=1e-6)


def test_details_hold_calibration_and_subgroups(model, tiny_planes, tiny_hc18):
    planes = FetalPlanesDataModule(str(tiny_planes), num_workers=0)
    details = evaluated(PlaneEvaluation(), planes, model, "planes")
    right = [row["correct"] for row in details["samples"]]
    assert sum(point["count"] for point in details["reliability"]) == len(right) == 60
    assert 0 <= details["ece"] <= 1
    assert 0 <= details["ece_fitted"] <= 1
    machines, operators = details["subgroups"]["machine"], details["subgroups"]["operator"]
    assert machines["Voluson E6"]["count"] == 60
    assert machines["Voluson E6"]["f1"] == pytest.approx(details["f1"])
    assert machines["Voluson E6"]["f1_ci_low"] == pytest.approx(details["f1_ci_low"], abs=0.02)
    assert machines["Voluson E6"]["f1_ci_high"] == pytest.approx(details["f1_ci_high"], abs=0.02)
    assert sum(group["count"] for group in operators.values()) == 60
    operator = {record.name: record.operator for record in planes.records}
    for name, group in operators.items():
        own = [row for row in details["samples"] if operator[row["name"]] == name]
        truth, guess = ([row[key] for row in own] for key in ("target", "prediction"))
        f1 = f1_score(truth, guess, labels=sorted(set(truth)), average="macro", zero_division=0)
        assert (group["count"], group["f1"]) == (len(own), pytest.approx(f1))
        assert group["accuracy"] == pytest.approx(np.mean([row["correct"] for row in own]))
        assert 0 <= group["balanced_accuracy"] <= 1
        assert group["f1_ci_low"] <= f1 <= group["f1_ci_high"]
        assert group["f1_ci_high"] != machines["Voluson E6"]["f1_ci_high"], "of its own images"
    heads = evaluated(BiometryEvaluation(), HC18DataModule(str(tiny_hc18), num_workers=0), model, "hc18")
    bands = heads["subgroups"]["gestational age"]
    assert sum(band["count"] for band in bands.values()) == heads["total"]
    scored = [band for band in bands.values() if "validity" in band]
    assert scored
    assert all(
        0 <= band["validity_ci_low"] <= band["validity"] <= band["validity_ci_high"] <= 100 for band in scored
    )
