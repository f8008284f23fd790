"""Base class of the zero-shot evaluations: when they run, on which models, and where results go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.evaluation.embedding_pass import embed
from callbacks.tracking.logger_media import log_pictures
from datamodules.evaluation.protocol import Protocol
from datamodules.record import Record
from figures.style import save_png
from metrics.benchmarks import BENCHMARKS
from metrics.names import CONSTANT, RANDOM, STUDENT, TEACHER, final_name, scalars, validation_name
from models import DualEncoder
from models.evaluation_mode import evaluation_mode, random_twin
from models.files import atomic

Details = dict[str, Any]


class ZeroShotEvaluation(Callback):
    """Score the student and its reference models on the data module's benchmarks of one kind.

    In validation epochs it scores the student on validation patients, and the teacher once, as a reference. In the
    test it scores the student, the teacher, and the student's architecture with random weights on test patients.

    Args:
        protocol: Prompts, or their file.
        benchmarks: Benchmarks to score, ``[]`` for none; None for those that the data module names. The attribute
            holds those of this run, once `setup` has found them.
        selection_split: Images of the validation epochs: "val", or "all" to select as the paper does.
        test_split: Images of the test: "test", or "all" to report on all images as the paper does.
        figures: Draw the figures of every tested model.
        most_prompts: Use only the first prompts or templates, for a quick run; null uses all.

    Attributes:
        test_follows: Whether the test follows the training that starts; its images must then be present.
        validation: Model -> benchmark -> latest result on validation patients.
        results: Model -> benchmark -> result of the test; see docs/metrics.md.
        final_metrics: The plain numbers of `results` by logged name.
    """

    KIND: ClassVar[str]
    """`metrics.Benchmark.kind` of the benchmarks that this evaluation scores."""

    def __init__(
        self,
        protocol: str | Path | Protocol | None = None,
        benchmarks: list[str] | None = None,
        selection_split: str = "val",
        test_split: str = "test",
        figures: bool = True,
        most_prompts: int | None = None,
    ) -> None:
        name = type(self).__name__
        if most_prompts is not None and most_prompts < 1:
            raise ValueError(f"{name}: most_prompts must be 1 or more, not {most_prompts}")
        unknown = sorted(set(benchmarks or ()) - set(self.benchmark_names()))
        if unknown:
            raise ValueError(f"{name} scores {self.benchmark_names()}, not {unknown}")
        if not isinstance(protocol, Protocol):
            protocol = Protocol.load(protocol)
        self.protocol = protocol if most_prompts is None else protocol.first(most_prompts)
        self.most_prompts = most_prompts
        self.wanted = benchmarks
        self.selection_split = selection_split
        self.test_split = test_split
        self.figures = figures
        self.benchmarks: tuple[str, ...] = ()
        self.test_follows = False
        self.validation: dict[str, dict[str, Details]] = {}
        self.results: dict[str, dict[str, Details]] = {}
        self.final_metrics: dict[str, float] = {}
        self.tested: str | None = None  # model that the test is scoring

    @abstractmethod
    def score(self, model: DualEncoder, images: Tensor, records: list[Record], benchmark: str) -> Details:
        """Score a model in eval mode on one benchmark: the metric's dictionary, ``n_scored`` and ``samples``.

        `images` are the embeddings [N, D] of the records, on the CPU; every process scores all of them.
        """

    @abstractmethod
    def baselines(self, fitted_on: list[Record], records: list[Record], benchmark: str) -> dict[str, Details]:
        """Score answers that look at no image, fitted on training patients: baseline -> its scores on `records`."""

    @abstractmethod
    def undefined_score(self, records: list[Record], benchmark: str) -> str | None:
        """Return which score is undefined for these images and why; None when all are defined.

        Raises:
            ValueError: The headline score is undefined, or a measure of an image or the prompts of a class are missing.
        """

    @abstractmethod
    def draw(self, details: Details, title: str) -> Figure:
        """Draw one result."""

    def draw_all(self, details: Details, title: str) -> dict[str, Figure]:
        """Draw every figure of a final result, by suffix of its file name."""
        return {"": self.draw(details, title)}

    @classmethod
    def benchmark_names(cls) -> list[str]:
        """Return the names of the benchmarks of this kind."""
        return [benchmark.name for benchmark in BENCHMARKS.values() if benchmark.kind == cls.KIND]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the benchmarks of the data, and check that each has images to score (see `check`)."""
        data = getattr(trainer, "datamodule", None)
        self.benchmarks = self.chosen_of(getattr(data, "benchmarks", ()))
        for warning in self.check(data, self.splits(stage, validates=bool(trainer.limit_val_batches))):
            rank_zero_warn(warning)

    def check(self, data: Any, splits: Sequence[str]) -> list[str]:
        """Check that a data module has what is scored in these splits; return which scores will be undefined, and why.

        Raises:
            ValueError: A wanted benchmark is not in the data or has no image in a split, or a measure of an image or
                the prompts of a class are missing.
        """
        named = getattr(data, "benchmarks", ())
        missing = [name for name in self.wanted or () if name not in named]
        if missing:
            name = type(data).__name__
            raise ValueError(f"{type(self).__name__}: {name} has the benchmarks {list(named)}, not {missing}")
        undefined = []
        for split in splits:
            for benchmark in self.chosen_of(named):
                records = data.evaluation_records(benchmark, split)
                reason = self.undefined_score(records, benchmark)
                undefined += [f"{benchmark}, {split} patients: {reason}"] if reason else []
        return undefined

    def chosen_of(self, named: Sequence[str]) -> tuple[str, ...]:
        """Return which of a data module's benchmarks are scored."""
        wanted = named if self.wanted is None else self.wanted
        return tuple(name for name in self.benchmark_names() if name in wanted)

    def splits(self, stage: str, *, validates: bool) -> list[str]:
        """Return the splits that a stage ("fit", "validate", "test" or "predict"), and the test after it, score."""
        if stage in ("test", "predict"):
            return [self.test_split] if stage == "test" else []
        selection = [self.selection_split] if validates else []
        return [*selection, self.test_split] if self.test_follows else selection

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self.benchmarks:
            return
        for name, model in _models(pl_module).items():
            if name == STUDENT or name not in self.validation:
                self.validation[name] = self._evaluate(trainer, model, self.selection_split)
            for benchmark, details in self.validation[name].items():
                for key, value in scalars(details).items():
                    pl_module.log(validation_name(name, benchmark, key), value, sync_dist=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.final_metrics, self.results = {}, {}
        if not self.benchmarks:
            return
        models = _models(pl_module)
        models[RANDOM] = random_twin(models[STUDENT], seed=0)
        for self.tested, model in models.items():
            name = self.tested
            self.results[name] = self._evaluate(trainer, model, self.test_split)
            self.log_final(pl_module, name)
            for benchmark, details in self.results[name].items():
                if self.figures and trainer.is_global_zero:
                    title = f"{name}, {benchmark}, {self.test_split} patients"
                    for suffix, figure in self.draw_all(details, title).items():
                        publish_figure(figure, trainer, f"{name}-{benchmark}{suffix}")
        self.tested = None
        for benchmark in self.benchmarks:
            for name, details in self._baselines(trainer, benchmark).items():
                self.results.setdefault(name, {})[benchmark] = details
        for name in (name for name in self.results if name not in models):
            self.log_final(pl_module, name)

    def _baselines(self, trainer: Trainer, benchmark: str) -> dict[str, Details]:
        """Fit the baselines on the benchmark's training patients; without any, one entry says why there is none."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        records = data.evaluation_records(benchmark, self.test_split)
        try:
            fitted_on = data.evaluation_records(benchmark, "train")
            found = self.baselines(fitted_on, records, benchmark)
        except ValueError as error:
            rank_zero_warn(f"{benchmark}: no baselines beside the scores: {error}")
            return {CONSTANT: {"lacking": str(error)}}
        facts = {"n_fitted": len(fitted_on), "n_scored": len(records), "split": self.test_split}
        return {name: details | facts for name, details in found.items()}

    def log_final(self, pl_module: LightningModule, name: str) -> None:
        """Log the plain numbers of a model's results."""
        for benchmark, details in self.results[name].items():
            for key, value in scalars(details).items():
                self.final_metrics[final_name(name, benchmark, key)] = value
                pl_module.log(final_name(name, benchmark, key), value, sync_dist=True)

    def _evaluate(self, trainer: Trainer, model: DualEncoder, split: str) -> dict[str, Details]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        scored = {benchmark: data.evaluation_records(benchmark, split) for benchmark in self.benchmarks}
        # Benchmarks share images: those of the sub-planes are among those of the planes.
        rows = {record: row for row, record in enumerate(dict.fromkeys(chain(*scored.values())))}
        results = {}
        with evaluation_mode(model) as used:
            reading, what = (data.evaluation_batch_size, data.num_workers), f"{' and '.join(scored)} images"
            images = embed(used, list(rows), *reading, what=what)["image"]
            for benchmark, records in scored.items():
                details = self.score(used, images[[rows[record] for record in records]], records, benchmark)
                results[benchmark] = details | {"split": split, "protocol": self.protocol.digest}
        return results


def _models(pl_module: LightningModule) -> dict[str, DualEncoder]:
    module: Any = pl_module
    teacher = getattr(module, "teacher", None)
    return {STUDENT: module.student} | ({} if teacher is None else {TEACHER: teacher})


def publish_figure(figure: Figure, trainer: Trainer, name: str) -> Path:
    """Write a figure to ``plots/NAME.png`` in the run's folder and to every logger of pictures; return the file."""
    path = Path(trainer.default_root_dir) / "plots" / f"{name}.png"
    with atomic(path) as partial:
        save_png(figure, partial)
    log_pictures(trainer, {f"plots/{name}": path}, trainer.global_step)
    return path
