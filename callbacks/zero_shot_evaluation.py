"""What the clinical evaluations share: when they run, on which models, and where results go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from callbacks.evaluation_mode import check_half_precision, evaluation_mode, half_dtype, random_twin
from callbacks.figures import publish_figure
from datamodules.protocol import Protocol
from datamodules.record import Record
from metrics.names import RANDOM, STUDENT, TEACHER, final_name, scalars, validation_name
from models import DualEncoder

Details = dict[str, Any]


class ZeroShotEvaluation(Callback):
    """Score the student, and the models it is measured against, on benchmarks of the data module.

    In validation epochs the student is scored on validation patients, and once the teacher, as the line to
    beat. In the test the student, the teacher and the student's architecture with random weights are scored
    on test patients.

    Attributes:
        benchmarks: What is scored in this run; known after `setup`.
        test_follows: Whether the training that begins is followed by the test, whose images then have to be there.
        validation: Model -> benchmark -> latest result on validation patients.
        results: Model -> benchmark -> result of the test: the metric's dictionary, ``n_scored``, ``split``,
            ``protocol`` (digest of the prompts) and ``samples``, one row an image; docs/metrics.md defines them.
        final_metrics: The plain numbers of `results` by the name they are logged under.
    """

    KNOWN: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        protocol: Protocol,
        every_n_epochs: int,
        benchmarks: list[str] | None,
        selection_split: str,
        test_split: str,
        full_precision: bool,
        random_seed: int,
        figures: bool,
        most_prompts: int | None,
    ) -> None:
        if most_prompts is not None and most_prompts < 1:
            raise ValueError(f"{type(self).__name__}: most_prompts must be 1 or more, not {most_prompts}")
        if every_n_epochs < 1:
            raise ValueError(f"{type(self).__name__}: every_n_epochs must be 1 or more, not {every_n_epochs}")
        unknown = sorted(set(benchmarks or ()) - set(self.KNOWN))
        if unknown:
            raise ValueError(f"{type(self).__name__} scores {list(self.KNOWN)}, not {unknown}")
        self.protocol = protocol if most_prompts is None else protocol.first(most_prompts)
        self.every_n_epochs = every_n_epochs
        self.wanted = benchmarks
        self.selection_split = selection_split
        self.test_split = test_split
        self.full_precision = full_precision
        self.random_seed = random_seed
        self.figures = figures
        self.benchmarks: tuple[str, ...] = ()
        self.test_follows = False
        self.validation: dict[str, dict[str, Details]] = {}
        self.results: dict[str, dict[str, Details]] = {}
        self.final_metrics: dict[str, float] = {}
        self.last_epoch: int | None = None
        self.evaluated = False

    @abstractmethod
    def score(self, model: DualEncoder, loader: DataLoader, records: list[Record], benchmark: str) -> Details:
        """Score one model on one benchmark.

        Args:
            model: In eval mode.
            loader: This process's share of the images.
            records: All images of the benchmark; ``index`` of a batch is the place in this list.
            benchmark: One of `KNOWN`.

        Returns:
            The metric's dictionary, ``n_scored`` and ``samples``, over all processes.
        """

    @abstractmethod
    def doubt(self, records: list[Record], benchmark: str) -> str | None:
        """Say which score these images leave undefined and why; None when all can be computed.

        Raises:
            ValueError: The benchmark's main score is undefined.
        """

    @abstractmethod
    def draw(self, details: Details, title: str) -> Figure:
        """Draw one result."""

    def draw_all(self, details: Details, title: str) -> dict[str, Figure]:
        """Draw every figure of a final result, by the ending of its name."""
        return {"": self.draw(details, title)}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out which benchmarks the data has, and that there are images of each to score.

        Raises:
            ValueError: A wanted benchmark is not in the data, or has no image in the split that is scored that allows
                a score; or half precision is wanted where training has none.
        """
        check_half_precision(type(self).__name__, self.full_precision, trainer)
        data = getattr(trainer, "datamodule", None)
        self.benchmarks = self.chosen_of(getattr(data, "benchmarks", ()))
        for doubt in self.check(data, self.splits(stage, validates=bool(trainer.limit_val_batches))):
            rank_zero_warn(doubt)

    def check(self, data: Any, splits: Sequence[str]) -> list[str]:
        """Look whether a data module has what is to be scored.

        Args:
            data: The data module.
            splits: The splits that will be scored.

        Returns:
            Which scores will be undefined and why; empty when all can be computed.

        Raises:
            ValueError: A wanted benchmark is not in the data, or has no image in a split, or what scoring needs of an
                image or of the prompts is missing.
        """
        named = getattr(data, "benchmarks", ())
        lacking = [name for name in self.wanted or () if name not in named]
        if lacking:
            name = type(data).__name__
            raise ValueError(f"{type(self).__name__}: {name} has the benchmarks {list(named)}, not {lacking}")
        doubts = []
        for split in splits:
            for benchmark in self.chosen_of(named):
                records = data.evaluation_records(benchmark, split)
                self.require(records, benchmark)
                doubt = self.doubt(records, benchmark)
                doubts += [f"{benchmark}, {split} patients: {doubt}"] if doubt else []
        return doubts

    @abstractmethod
    def require(self, records: list[Record], benchmark: str) -> None:
        """Look whether images can be scored.

        Raises:
            ValueError: A measure of an image is missing, or the prompts of a class.
        """

    def chosen_of(self, named: Sequence[str]) -> tuple[str, ...]:
        """Return what is scored of the benchmarks that a data module names; nothing where ``[]`` is wanted."""
        wanted = named if self.wanted is None else self.wanted
        return tuple(name for name in self.KNOWN if name in wanted)

    def splits(self, stage: str, *, validates: bool) -> list[str]:
        """Return the splits that a stage, and the test behind it, will score.

        Args:
            stage: "fit", "validate", "test" or "predict".
            validates: Whether there are validation batches.
        """
        if stage in ("test", "predict"):
            return [self.test_split] if stage == "test" else []
        selection = [self.selection_split] if validates else []
        return [*selection, self.test_split] if self.test_follows else selection

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the student on validation patients, and the first time the teacher too."""
        self.evaluated = self._is_due(trainer)
        if not self.evaluated:
            return
        self.last_epoch = trainer.current_epoch
        for name, model in _models(pl_module).items():
            if name == STUDENT or name not in self.validation:
                self.validation[name] = self._evaluate(trainer, model, self.selection_split)
            for benchmark, details in self.validation[name].items():
                for key, value in scalars(details).items():
                    pl_module.log(validation_name(name, benchmark, key), value, sync_dist=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score student, teacher and random weights on test patients."""
        self.final_metrics = {}
        self.results = {}
        if not self.benchmarks:
            return
        models = _models(pl_module)
        models[RANDOM] = random_twin(models[STUDENT], self.random_seed)
        for name, model in models.items():
            self.results[name] = self._evaluate(trainer, model, self.test_split)
            self.log_final(pl_module, name)
            for benchmark, details in self.results[name].items():
                if self.figures and trainer.is_global_zero:
                    title = f"{name}, {benchmark}, {self.test_split} patients"
                    for suffix, figure in self.draw_all(details, title).items():
                        publish_figure(figure, trainer, f"{name}-{benchmark}{suffix}")

    def log_final(self, pl_module: LightningModule, name: str) -> None:
        """Keep and log the plain numbers of a model's results."""
        for benchmark, details in self.results[name].items():
            for key, value in scalars(details).items():
                self.final_metrics[final_name(name, benchmark, key)] = value
                pl_module.log(final_name(name, benchmark, key), value, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the last evaluated epoch, so that a resumed run keeps the rhythm."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rhythm of an interrupted run."""
        self.last_epoch = state_dict["last_epoch"]

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking or not self.benchmarks:
            return False
        if trainer.state.fn != TrainerFn.FITTING or self.every_n_epochs == 1 or self.last_epoch is None:
            return True
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        return last or trainer.should_stop or trainer.current_epoch - self.last_epoch >= self.every_n_epochs

    def _evaluate(self, trainer: Trainer, model: DualEncoder, split: str) -> dict[str, Details]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        results = {}
        with evaluation_mode(model, self.full_precision, half_dtype(trainer)) as used:
            for benchmark in self.benchmarks:
                records = data.evaluation_records(benchmark, split)
                loader = data.evaluation_loader(benchmark, split, used.preprocessing)
                details = self.score(used, loader, records, benchmark)
                if details["n_scored"] != len(records):
                    raise RuntimeError(
                        f"{benchmark}, {split}: {details['n_scored']} of {len(records)} images were scored"
                    )
                results[benchmark] = details | {"split": split, "protocol": self.protocol.digest}
        return results


def _models(pl_module: LightningModule) -> dict[str, DualEncoder]:
    module: Any = pl_module
    teacher = getattr(module, "teacher", None)
    return {STUDENT: module.student} | ({} if teacher is None else {TEACHER: teacher})


def metric_device(model: DualEncoder) -> str:
    """Say where a metric's state must live: with NCCL on the GPU, else on the CPU, which has float64."""
    distributed = dist.is_available() and dist.is_initialized()
    if distributed and dist.get_backend() == "nccl":
        return str(next(model.parameters()).device)
    return "cpu"


def check_order(records: list[Record], batch: dict[str, Any]) -> list[Record]:
    """Return the records of a batch.

    Raises:
        RuntimeError: A name is not that of the record in its place: labels and images would be mixed up.
    """
    chosen = [records[index] for index in batch["index"].tolist()]
    for record, name in zip(chosen, batch["name"], strict=True):
        if record.name != name:
            raise RuntimeError(f"evaluation batch holds {name} where the list of records has {record.name}")
    return chosen


def protocol_of(protocol: str | Path | Protocol | None, **replacements: str | Path | None) -> Protocol:
    """Take a protocol as it is, or read it from its file."""
    return protocol if isinstance(protocol, Protocol) else Protocol.load(protocol, **replacements)
