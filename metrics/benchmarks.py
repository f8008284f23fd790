"""The list of zero-shot benchmarks, and the scores that join several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from .bootstrap import RESAMPLES, f1_interval

PLANES, SUBPLANES, HC18 = "planes", "subplanes", "hc18"


@dataclass(frozen=True)
class Benchmark:
    """A zero-shot benchmark: its images, labels and prompts, and its weight in the score that selects checkpoints.

    Attributes:
        name: Key in data modules, in names of metrics and in results: ``student/NAME/f1``.
        title: The headline score in tables and figures.
        subject: What is scored, without the score: "brain sub-plane".
        kind: "classification" (class of highest similarity) or "biometry" (gestational age of a head).
        corpus, label: `Record.corpus` of its images, and the attribute of `Record` with their class or measure.
        prompts: Key of its texts in the prompt file.
        headline: Key of the main score in the metric's result; larger is better.
        weight: Weight among the benchmarks of its kind in `composite_score`.
        exclude: Labels that are not scored.
        probe: Name of its linear probe, which then learns the excluded labels, too; empty: the benchmark's own name.
        scale: Largest value of the headline: 100 for percent.
        classes: Class -> prompts of a user's own benchmark; empty: those of the prompt file.
        own: Whether it is a user's own (see `datamodules.evaluation.own_benchmarks`).
    """

    name: str
    title: str
    subject: str
    kind: Literal["classification", "biometry"]
    corpus: str
    label: str
    prompts: str
    headline: str
    weight: float = 1
    exclude: tuple[str, ...] = ()
    probe: str = ""
    scale: float = 1
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    own: bool = False

    @property
    def digits(self) -> int:
        """Decimals of the headline in tables: 1 for percent, else 3."""
        return 1 if self.scale == 100 else 3

    def label_of(self, record: Any) -> Any:
        """Return a record's class name or measure, None without one; a column of a user's table comes first."""
        return record.others[self.label] if self.label in record.others else getattr(record, self.label, None)

    def includes(self, record: Any) -> bool:
        """Return whether a record is one of the benchmark's images."""
        if self.kind == "biometry" and record.plane not in (None, "brain"):  # of another picture of the fetus
            return False
        return record.corpus == self.corpus and self.label_of(record) not in (None, *self.exclude)


# The weights of the planes are their numbers of classes: F1 is averaged over the eight classes of both. As in the
# published evaluation, "other" is no class of either.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name=PLANES, title="five-plane F1", subject="five-plane", kind="classification", corpus="planes",
            label="plane", exclude=("other",), probe="views", prompts="planes", headline="f1", weight=5,
        ),
        Benchmark(
            name=SUBPLANES, title="brain sub-plane F1", subject="brain sub-plane", kind="classification",
            corpus="planes", label="brain_plane", exclude=("other",), prompts="subplanes", headline="f1", weight=3,
        ),
        Benchmark(
            name=HC18, title="HC18 validity, %", subject="HC18", kind="biometry", corpus="hc18", label="hc_mm",
            prompts="biometry", headline="validity", scale=100,
        ),
    )
}  # fmt: skip


def register(benchmark: Benchmark) -> None:
    """Add a user's own benchmark to `BENCHMARKS`, in this process.

    Raises:
        ValueError: Another benchmark has its name.
    """
    if BENCHMARKS.setdefault(benchmark.name, benchmark) != benchmark:
        whose = "with other settings" if BENCHMARKS[benchmark.name].own else "of this project's"
        raise ValueError(f"benchmark {benchmark.name}: the name is used by one {whose}; choose another")


def own_benchmarks(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the user's own among these benchmarks as primitives, for results; `register_saved` reads them."""
    return [asdict(BENCHMARKS[name]) for name in names if BENCHMARKS[name].own]


def register_saved(saved: Sequence[Mapping[str, Any]]) -> None:
    """Register what `own_benchmarks` returned, for tables and reports.

    Of runs with other prompts, weight or excluded labels the first is kept: these do not change how scores are shown.
    """
    for benchmark in saved:
        one = Benchmark(**{**benchmark, "exclude": tuple(benchmark["exclude"])})
        known = BENCHMARKS.get(one.name, one)
        register(replace(one, classes=known.classes, weight=known.weight, exclude=known.exclude))


def benchmarks_of(*corpora: str) -> tuple[str, ...]:
    """Return the names of the benchmarks whose images come from these corpora."""
    return tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.corpus in corpora)


def composite_score(scores: Mapping[str, float]) -> float:
    """Return the score that selects checkpoints, ``((5 F1_planes + 3 F1_subplanes) / 8 + validity / 100) / 2``.

    That is the mean over kinds of benchmarks of the weighted mean of their headline scores (macro F1, 0 to 1; validity
    in percent), from the benchmarks given.

    Raises:
        ValueError: There are no scores, or one belongs to no known benchmark.
    """
    unknown = sorted(set(scores) - set(BENCHMARKS))
    if unknown or not scores:
        raise ValueError(
            f"composite score: needs one or more of {[*BENCHMARKS]}, got {unknown or 'no scores'}"
        )
    parts = []
    for kind in ("classification", "biometry"):
        found = [b for b in BENCHMARKS.values() if b.kind == kind and b.name in scores]
        if found:
            total = sum(b.weight * (scores[b.name] / b.scale) for b in found)
            parts.append(total / sum(b.weight for b in found))
    return sum(parts) / len(parts)


def eight_class_interval(
    parts: Sequence[tuple[Sequence[str], Sequence[str]]],
    resamples: int = RESAMPLES,
    patients: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro F1 over the classes of several benchmarks together.

    The published evaluation appends the sub-planes' images to the planes' and resamples both in one draw, so the
    interval does not follow from those of the two benchmarks.

    Args:
        parts: True and predicted class names of each benchmark's images, in the order of its table; the planes first.
        resamples: Number of resamples.
        patients: Patient of every image of all benchmarks, in that order, to resample whole patients.
    """
    truth = [(part, name) for part, (true, _) in enumerate(parts) for name in true]
    guess = [(part, name) for part, (_, predicted) in enumerate(parts) for name in predicted]
    number = {name: position for position, name in enumerate(sorted({*truth, *guess}))}
    targets, predictions = ([number[name] for name in names] for names in (truth, guess))
    return f1_interval(targets, predictions, len(number), resamples, patients=patients)
