"""Training with every callback, and evaluation: on the device as on the CPU, in float32 whatever is switched on."""

import copy
import math

import numpy as np
import pytest
import torch

from callbacks import (
    AnswerCalibration,
    BestMetrics,
    BiometryEvaluation,
    CompositeScore,
    EvaluateLastEpoch,
    GradientNorms,
    LastCheckpoint,
    PlaneEvaluation,
    ProbeBatch,
    RepresentationEvaluation,
    SkippedSamples,
    StopOnNonFiniteLoss,
    Throughput,
)
from datamodules.evaluation.protocol import Protocol
from datamodules.phantom.corpus import PhantomSettings
from datamodules.phantom.datamodule import PhantomDataModule
from models.evaluation_mode import evaluation_mode
from models.student.checkpoint import CheckpointStudent
from models.zero_shot import age_embeddings, class_embeddings, class_logits, encode_images
from tests.gpu.conftest import pairs_of, trainer_on

pytestmark = pytest.mark.gpu

COSINES = 1e-5
"""Largest difference of a cosine: some hundred roundings of float32 (6e-8). TF32's (5e-4) would exceed it."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return the simulated images, drawn once."""
    root = tmp_path_factory.mktemp("phantom")
    settings = PhantomSettings(
        seed=1, num_planes_images=60, num_hc18_images=24, num_pair_images=0, planes_images_per_patient=2
    )
    return lambda **options: PhantomDataModule(
        str(root), settings, workers=1, num_workers=0, batch_size=8, evaluation_batch_size=16, hc18_test_share=0.4,
        val_share=0.25, **options,
    )  # fmt: skip


def evaluations(cache):
    return [
        PlaneEvaluation(most_prompts=1, figures=False),
        BiometryEvaluation(most_prompts=1, figures=False, cache=str(cache)),
        RepresentationEvaluation(enabled=True, probe_split="all", probe_seeds=1, figures=False),
        AnswerCalibration(),
    ]


def tracking(probe):
    return [
        StopOnNonFiniteLoss(), CompositeScore(), BestMetrics(), EvaluateLastEpoch(), probe, GradientNorms(),
        Throughput(), SkippedSamples(), LastCheckpoint(),
    ]  # fmt: skip


def scored(module, device, folder, corpus):
    """Return the tested scores of a module and its answer for every image."""
    callbacks = evaluations(folder / f"ages-{device}")
    trainer_on(device, folder, precision="bf16-mixed", callbacks=callbacks).test(
        module, datamodule=corpus(), verbose=False
    )
    planes, biometry, representation, calibration = callbacks
    answers = {
        (model, benchmark): [(row["name"], row["prediction"], row["correct"]) for row in details["samples"]]
        for one in (planes, biometry)
        for model, by_benchmark in one.results.items()
        for benchmark, details in by_benchmark.items()
        if "samples" in details
    }
    others = representation.final_metrics | calibration.final_metrics
    return planes.final_metrics | biometry.final_metrics, answers, others


def test_a_trained_module_scores_on_the_device_as_on_the_cpu(build, device, tmp_path, corpus):
    module, probe = build(), ProbeBatch(size=8)
    callbacks = [*evaluations(tmp_path / "ages"), *tracking(probe)]
    trainer = trainer_on(
        device, tmp_path, "bf16-mixed", callbacks, max_epochs=2, limit_train_batches=2, log_every_n_steps=1
    )
    trainer.fit(module, datamodule=corpus(pin_memory=device == "cuda"))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    named = {"val/composite", "gradient_norm/image", "best/composite", "speed/images_per_second"}
    assert {name for name in named if not math.isfinite(logged.get(name, math.nan))} == set(), sorted(logged)
    assert probe.batch

    scores, answers, others = scored(module, device, tmp_path / "device", corpus)
    expected, expected_answers, expected_others = scored(module, "cpu", tmp_path / "cpu", corpus)
    assert answers == expected_answers
    assert len(answers) > 3
    exact = [name for name in expected if name.endswith(("/validity", "/f1", "/accuracy"))]
    assert len(exact) >= 4
    assert {name: scores[name] for name in exact} == {name: expected[name] for name in exact}
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)
    # Thresholds, fits and ranks of float32 embeddings.
    assert others == pytest.approx(expected_others, rel=2e-2, abs=2e-2, nan_ok=True)


@pytest.mark.parametrize("tf32", [False, True])
def test_similarities_are_float32_also_when_tf32_is_switched_on(small_fastvit, teacher, device, tf32):
    protocol = Protocol.load().first(1)
    prompts = protocol.planes

    def similarities(model, images, spacings):
        with evaluation_mode(model) as used:
            embedded = encode_images(used, images)
            planes = class_logits(embedded, class_embeddings(used, prompts)) / 100
            ages = age_embeddings(used, protocol.biometry, spacings)
            return planes.cpu(), ages.similarity(
                embedded, [spacings[i % 2] for i in range(len(images))]
            ).cpu() / 100

    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    for switch in switches:
        switch.allow_tf32 = tf32
    for model in (copy.deepcopy(small_fastvit), copy.deepcopy(teacher).eval()):
        images = pairs_of(model, model)["student_image"]
        expected = similarities(model, images, ["0.10", "0.25"])
        model.to(device)
        found = similarities(model, images.to(device), ["0.10", "0.25"])
        for here, there in zip(found, expected, strict=True):
            assert here.dtype == torch.float32
            torch.testing.assert_close(here, there, rtol=0, atol=COSINES)
    assert [switch.allow_tf32 for switch in switches] == [tf32, tf32]


def test_a_student_answers_on_the_device_as_on_the_cpu(small_fastvit, device):
    """`predict --device=cuda`."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    protocol = Protocol.load().first(1).content()
    images = [np.random.default_rng(k).integers(0, 256, (90, 120, 3), dtype=np.uint8) for k in range(3)]
    answers = []
    for place in ("cpu", device):
        student = CheckpointStudent(copy.deepcopy(small_fastvit).to(place), protocol)
        embedded = student.embed_pixels(np.stack([student.prepare(image) for image in images]))
        classes = np.concatenate([vectors for _, vectors in student.classes.values()])
        answers.append((embedded, classes, student.age_vectors(0.2)[2], student.saliency(images)))
    for here, there, tolerance in zip(*answers, (COSINES, COSINES, COSINES, 1e-3), strict=True):
        np.testing.assert_allclose(
            there, here, rtol=0, atol=tolerance
        )  # maps are divided by their largest value


def test_tf32_would_be_noticed(teacher, card):
    """The tolerance above is below TF32's error, so that the test before this one can fail."""
    images = pairs_of(teacher, teacher)["student_image"]
    with evaluation_mode(teacher) as used:
        expected = used.encode_image(images)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with torch.no_grad():
        found = teacher.eval().to(card).encode_image(images.to(card)).cpu()
    assert (found - expected).abs().max() > COSINES
