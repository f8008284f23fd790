"""Representation evaluation of frozen embeddings: linear probes, retrieval and geometry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.evaluation.embedding_pass import Pairs, embed
from callbacks.evaluation.zero_shot_evaluation import Details, publish_figure
from datamodules.record import Record
from figures.embeddings import MOST_POINTS, balanced_sample, embedding_figure, tsne
from metrics import names
from metrics.benchmarks import BENCHMARKS
from metrics.geometry import class_distance_ratio, effective_rank, linear_cka, logit_correlation
from metrics.linear_probe import UndefinedProbeError, fixed_test_probe, linear_probe
from metrics.retrieval import retrieval_scores
from models import DualEncoder
from models.evaluation_mode import evaluation_mode

OFFICIAL = "official"
SMALLEST_MAP = 10  # images; fewer make no map
MOST_PAIRS = 2000  # of the geometry, whose cost is quadratic; evenly spaced
PROBE_SPLITS = ("train", "val", "test", "all", OFFICIAL)


class RepresentationEvaluation(Callback):
    """Score the frozen embeddings of student and teacher after the test.

    - Linear probe of every classification benchmark of the data: logistic regression on image features of
      ``probe_split``, held out by patient. That of the planes learns six views, "other" included.
    - Retrieval: recall at 1, 5 and 10 between images and captions of the test patients.
    - Geometry: linear CKA and logit correlations between student and teacher; of each, effective rank and the
      ratio of distances between and within planes; t-SNE maps by plane and by brain sub-plane.

    Args:
        enabled: Whether to score at all: off in training, on in evaluation.
        probe_split: Images of the probe: "test", "train", "val" or "all", split by patient at random; or "official":
            fitted on training and validation patients, scored on test patients. The student has seen the training
            images.
        probe_seeds: Number of random splits of the patients, or, with the official split, of resamples of the
            training patients; the deviation is over them.
        figures: Draw the t-SNE maps.

    Attributes:
        results: Model -> ``probe`` and ``retrieval``, and ``geometry``; the details of `results.json`.
        final_metrics: The plain numbers by logged name.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        enabled: bool = False,
        probe_split: str = "test",
        probe_seeds: int = 5,
        figures: bool = True,
    ) -> None:
        if probe_split not in PROBE_SPLITS:
            raise ValueError(
                f"representation.probe_split: {probe_split!r} is not one of {', '.join(PROBE_SPLITS)}"
            )
        if probe_seeds < 1:
            raise ValueError("representation: probe_seeds must be 1 or more")
        self.enabled = enabled
        self.probe_split = probe_split
        self.probe_seeds = probe_seeds
        self.figures = figures
        self.results: dict[str, Details] = {}
        self.final_metrics: dict[str, float] = {}
        self.undefined: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check whether the images allow each probe."""
        if not self.enabled:
            return
        self.undefined = set()
        for task, labels in self._tasks(trainer.datamodule).items():  # type: ignore[attr-defined]
            try:
                self._fit(np.zeros((len(labels), 1)), labels)
            except UndefinedProbeError as error:
                self.undefined.add(task)
                rank_zero_warn(f"probe of {task}, {self.probe_split} patients: no score is computed: {error}")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.results, self.final_metrics = {}, {}
        if not self.enabled:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        models: dict[str, Any] = {names.STUDENT: pl_module.student}
        if pl_module.teacher is not None:
            models[names.TEACHER] = pl_module.teacher
        records = data.split("test")
        step = max(1, -(-len(records) // MOST_PAIRS))
        pairs: dict[str, Pairs] = {}
        for name, model in models.items():
            with evaluation_mode(model) as used:
                self.results[name] = self.probe(used, data)
                if records:
                    reading = data.evaluation_batch_size, data.num_workers
                    own = embed(used, records, *reading, seed=data.seed)
                    identity = _identity(own["tokens"])
                    scores = retrieval_scores(own["image"], own["text"], identity)
                    self.results[name][names.RETRIEVAL] = scores | {"n_scored": len(identity)}
                    pairs[name] = {key: value[::step] for key, value in own.items()}
        if pairs:
            self.results[names.GEOMETRY] = self.geometry(pairs, records[::step])
            if self.figures and trainer.is_global_zero:
                self.draw(trainer, pairs, records[::step])
        self._log(pl_module, list(models))

    def probe(self, model: DualEncoder, data: Any) -> Details:
        """Fit and score linear probes on the image features of a model in eval mode.

        Returns:
            ``probe`` -> name of the probe -> result of `metrics.linear_probe`, and ``split``; empty without probes.
        """
        tasks = {task: labels for task, labels in self._tasks(data).items() if task not in self.undefined}
        records = list(dict.fromkeys(record for labels in tasks.values() for record in labels))
        embedded = embed(model, records, data.evaluation_batch_size, data.num_workers)
        features = dict(zip(records, embedded["image"].numpy(), strict=True))
        scores = {
            task: self._fit(np.stack([features[record] for record in labels]), labels)
            | {"split": self.probe_split}
            for task, labels in tasks.items()
        }
        return {names.PROBE: scores} if scores else {}

    def _tasks(self, data: Any) -> dict[str, dict[Record, str]]:
        """Return the images of each probe with their classes."""
        tasks = {}
        for benchmark in (BENCHMARKS[name] for name in data.benchmarks):
            if benchmark.kind != "classification":
                continue
            chosen = data.records if self.probe_split in ("all", OFFICIAL) else data.split(self.probe_split)
            left_out = (None,) if benchmark.probe else (None, *benchmark.exclude)
            labels = {r: benchmark.label_of(r) for r in chosen if r.corpus == benchmark.corpus}
            labels = {record: str(label) for record, label in labels.items() if label not in left_out}
            if labels:  # none where a user's table trains and a public set only tests
                tasks[benchmark.probe or benchmark.name] = labels
        return tasks

    def _fit(self, features: np.ndarray, labels: Mapping[Record, str]) -> Details:
        arguments = features, [*labels.values()], [record.patient for record in labels]
        seeds = range(self.probe_seeds)
        if self.probe_split == OFFICIAL:
            return fixed_test_probe(*arguments, [record.split == "test" for record in labels], seeds)
        return linear_probe(*arguments, seeds)

    def geometry(self, pairs: Mapping[str, Pairs], records: Sequence[Record]) -> Details:
        """Describe the embedding spaces of the same pairs, and compare student and teacher when there are both."""
        found: Details = {"n_pairs": len(records)}
        labelled = [row for row, record in enumerate(records) if record.plane]
        planes = [str(records[row].plane) for row in labelled]
        for name, own in pairs.items():
            found[name] = {"effective_rank": effective_rank(own["image"])}
            if len(set(planes)) > 1:
                found[name]["class_distance_ratio"] = class_distance_ratio(own["image"][labelled], planes)
        if names.TEACHER in pairs:
            student, teacher = pairs[names.STUDENT], pairs[names.TEACHER]
            texts = [_identity(own["tokens"]) for own in (student, teacher)]
            same = torch.stack([text[:, None] == text[None, :] for text in texts]).any(dim=0)
            logits = [own["image"] @ own["text"].T for own in (student, teacher)]
            diagonal, off_diagonal = logit_correlation(logits[0], logits[1], same)
            found |= {
                "cka": linear_cka(student["image"], teacher["image"]),
                "diagonal_correlation": diagonal,
                "off_diagonal_correlation": off_diagonal,
            }
        return found

    def draw(self, trainer: Trainer, pairs: Mapping[str, Pairs], records: Sequence[Record]) -> None:
        """Draw the maps by plane, and of brain images by sub-plane, where there are two classes or more."""
        for title, labels in (
            ("planes", [record.plane for record in records]),
            ("subplanes", [None if r.brain_plane == "other" else r.brain_plane for r in records]),
        ):
            known = {row: label for row, label in enumerate(labels) if label}
            rows = [[*known][at] for at in balanced_sample([*known.values()], MOST_POINTS)]
            classes = [known[row] for row in rows]
            if len(set(classes)) < 2 or len(rows) < SMALLEST_MAP:
                continue
            maps = {name: tsne(own["image"][rows].numpy()) for name, own in pairs.items()}
            figure = embedding_figure(
                maps, classes, f"t-SNE of image embeddings, {len(rows)} test images by {title[:-1]}"
            )
            publish_figure(figure, trainer, f"{names.GEOMETRY}-{title}")

    def _log(self, pl_module: LightningModule, models: Iterable[str]) -> None:
        shape = self.results.get(names.GEOMETRY, {})
        metrics = {names.geometry_name(key): value for key, value in names.scalars(shape).items()}
        for model in models:
            for task, scores in self.results[model].get(names.PROBE, {}).items():
                for key in ("f1", "f1_std"):
                    metrics[names.final_name(model, names.PROBE, f"{task}_{key}")] = scores[key]
            for key, value in names.scalars(self.results[model].get(names.RETRIEVAL, {})).items():
                metrics[names.final_name(model, names.RETRIEVAL, key)] = value
            for key, value in names.scalars(shape.get(model, {})).items():
                metrics[names.geometry_name(key, model)] = value
        self.final_metrics = metrics
        pl_module.log_dict(metrics, sync_dist=True)


def _identity(tokens: Tensor) -> Tensor:
    """Return a number per text [N], equal for texts of equal tokens."""
    identity: Tensor = torch.unique(tokens, dim=0, return_inverse=True)[1]
    return identity
