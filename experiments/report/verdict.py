"""The three questions of the report, answered in words no stronger than the evidence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.compare import relative
from experiments.report.read_run import Run
from experiments.report.reference import STATIC, distils, other_settings, reference_of, subject_of
from experiments.report.tables import MINUS, TITLES, difference, signed
from experiments.report.training import ATTRACT, REPEL, Dynamics, dynamics, epoch_of
from metrics.names import HEADLINE, STUDENT, TEACHER

NOTABLE_F1 = 0.01


@dataclass(frozen=True)
class Answer:
    """One question and its answer.

    Attributes:
        question: The question.
        short: The answer in a few words.
        sentences: What it rests on.
        tone: ``good``, ``bad`` or nothing.
    """

    question: str
    short: str
    sentences: list[str]
    tone: str = ""


def answers(runs: Sequence[Run]) -> list[Answer]:
    """Answer whether repulsion helped, where, and when."""
    subject, reference = subject_of(runs), reference_of(runs)
    return [_whether(subject, reference), _where(subject, reference), _when(subject, reference)]


def _whether(run: Run, reference: Run | None) -> Answer:
    question = "Did repulsion help?"
    if not dynamics(run).repels:
        text = "No run in this report lets the off-diagonal weight turn negative, so it cannot say."
        return Answer(question, "No repulsion here", [text])
    if reference is None:
        return Answer(
            question, "One run cannot say", [_within(run), _against_teacher(run), _how_to_compare(run)]
        )
    found = {name: difference(reference, STUDENT, run, STUDENT, name) for name in HEADLINE}
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        text = (
            f"{reference.name} was scored on other test images, so the two cannot be compared image by image."
        )
        return Answer(question, "Not comparable", [text])
    gains = [name for name, value in known.items() if value.low > 0]
    losses = [name for name, value in known.items() if value.high < 0]
    listed = "; ".join(
        f"{TITLES[name]} {signed(value.value, name)} "
        f"({signed(value.low, name)} to {signed(value.high, name)})"
        for name, value in known.items()
    )
    sentences = [
        f"Over {reference.experiment}, on the same test images: {listed}.",
        "Intervals are 95 % over patients and know nothing of the seed: repeat with other seeds before "
        "believing a small difference.",
    ]
    confusion, texts = _confusion(run, reference)
    sentences += texts
    if confusion:
        return Answer(question, confusion, [*sentences, _how_to_compare(run)])
    if gains and not losses:
        return Answer(question, "Yes, on these test patients", sentences, "good")
    if losses and not gains:
        return Answer(question, "No, it cost accuracy here", sentences, "bad")
    if gains:
        return Answer(question, "It helped one score and cost another", sentences)
    return Answer(question, "Not shown: within chance", sentences)


def _confusion(run: Run, reference: Run) -> tuple[str, list[str]]:
    """Say what else than repulsion could make the difference: in a few words (none: nothing), and in sentences."""
    different = other_settings(run, reference)
    texts = [f"The two also differ in {', '.join(different.values())}."] if different else []
    if not distils(reference):
        text = (
            f"{reference.experiment} learns from no teacher: this is the difference of distillation and repulsion "
            "together, and the two cannot be told apart."
        )
        return "Not told from distillation", [text, *texts]
    return ("Not told from other settings" if set(different) - {"seed"} else ""), texts


def _within(run: Run) -> str:
    found = dynamics(run)
    before, after = found.last_before_repulsion(), found.of_phase(REPEL)
    if before is None or not after:
        return "There are no evaluations on both sides of the zero crossing."
    best = max(after, key=lambda point: point.composite)
    word = "Longer training alone could explain the rise."
    if best.composite <= before.composite:
        word = "Repulsion may have kept it from rising, or training was past its best already."
    return (
        f"The validation composite was {before.composite:.3f} at the last evaluation before the weight "
        f"turned negative and {best.composite:.3f} at its best after. {word}"
    )


def _against_teacher(run: Run) -> str:
    known = {name: difference(run, TEACHER, run, STUDENT, name) for name in HEADLINE}
    listed = [
        f"{TITLES[name]} {signed(value.value, name)}" for name, value in known.items() if value is not None
    ]
    return (
        f"Over its teacher, on test patients: {'; '.join(listed)}."
        if listed
        else "There is no teacher to compare with."
    )


def _how_to_compare(run: Run) -> str:
    data, seed = run.record["data"], run.record.get("seed")
    epochs = (run.config.get("trainer") or {}).get("max_epochs")
    options = [("seed_everything", seed), ("trainer.max_epochs", epochs)]
    arguments = " ".join(f"--{name}={value}" for name, value in options if value is not None)
    return (
        f'To find out: make train EXP={STATIC} DATA={data} ARGS="{arguments}" && '
        f"make report RUN={shlex.quote(relative(run.folder))}, which distils at a constant weight without "
        "repulsion and compares with it."
    )


def _where(run: Run, reference: Run | None) -> Answer:
    rival, model = (reference, STUDENT) if reference is not None else (run, TEACHER)
    against = reference.experiment if reference is not None else "its teacher"
    changes = []
    for benchmark in run.benchmarks():
        mine, theirs = run.details(STUDENT, benchmark), rival.details(model, benchmark)
        for name, scores in (mine or {}).get("per_class", {}).items():
            before = (theirs or {}).get("per_class", {}).get(name)
            if before is not None:
                changes.append((scores["f1"] - before["f1"], name, before["f1"], scores["f1"]))
    if not changes:
        return Answer("Where?", "No classes to compare", ["Neither plane benchmark was scored on both."])
    changes.sort(reverse=True)
    up = [change for change in changes if change[0] >= NOTABLE_F1]
    down = [change for change in reversed(changes) if change[0] <= -NOTABLE_F1]
    sentences = [f"F1 by class, over {against}:"]
    for word, some in (("Up", up), ("Down", down)):
        listed = ", ".join(f"{name} {before:.2f} to {after:.2f}" for _, name, before, after in some[:3])
        sentences.append(f"{word}: {listed}." if some else f"{word}: none by {NOTABLE_F1} or more.")
    sentences.append("A class has few images, and these have no intervals: look at the pictures below, too.")
    best = f"Most for {changes[0][1]}" if up else "Nowhere notable"
    return Answer("Where?", best, sentences)


def _when(run: Run, reference: Run | None) -> Answer:
    question = "At what point of training?"
    found = dynamics(run)
    if found.best is None:
        return Answer(
            question, "No validation scores", ["This folder holds an evaluation without a training history."]
        )
    if found.crossing is None:
        text = (
            f"The best validation composite, {found.best.composite:.3f}, came at epoch {found.best.epoch}; "
            f"the weight {'was negative from the start' if found.repels else 'never turned negative'}."
        )
        return Answer(question, f"Best at epoch {found.best.epoch}", [text])
    epoch = epoch_of(run, found.crossing)
    sentences = [
        f"The weight fell {_way(found)}".replace("-", MINUS)
        + f" and crossed zero at step {found.crossing:.0f}"
        + (f", in epoch {epoch:.1f}." if epoch is not None else "."),
        _phases(found),
    ]
    if reference is not None:
        other = dynamics(reference)
        sentences += [
            _lead(found, other, reference.experiment),
            *_widened(found, other, reference.experiment),
        ]
    selected = f"The selected checkpoint is of epoch {found.best.epoch}, step {found.best.step:.0f}, "
    if found.best.phase == REPEL:
        return Answer(question, "Best while repelling", [*sentences, selected + "after the crossing."])
    note = "before the crossing: the model that was scored on test patients was never repelled."
    return Answer(question, "Best before repulsion began", [*sentences, selected + note], "bad")


def _way(found: Dynamics) -> str:
    """Say from where to where the weight went: the ends of its schedule, if it went to them."""
    if found.planned is None:
        return f"from {found.start_weight:.2g} to {found.end_weight:.2g} (first and last logged)"
    start, end = found.planned
    if found.completed:
        return f"from {start:.2g} to {end:.2g}"
    return f"from {start:.2g} to {found.end_weight:.2g} (last logged; its schedule goes on to {end:.2g})"


def _lead(found: Dynamics, other: Dynamics, name: str) -> str:
    """Say from which epoch on the validation composite stayed above another run's."""
    rival = {point.epoch: point.composite for point in other.evaluations}
    shared = [point for point in found.evaluations if point.epoch in rival]
    if not shared:
        return f"{name} has no validation scores at the same epochs."
    behind = [point.epoch for point in shared if point.composite <= rival[point.epoch]]
    ahead = [point for point in shared if not behind or point.epoch > behind[-1]]
    if not ahead:
        return f"At the last epoch it was not ahead of {name} on validation patients."
    phase = (
        f", {'repelling' if ahead[0].phase == REPEL else 'still attracting'} there" if ahead[0].phase else ""
    )
    return f"It stayed ahead of {name} on validation patients from epoch {ahead[0].epoch} on{phase}."


def _widened(found: Dynamics, other: Dynamics, name: str) -> list[str]:
    """Compare the lead over another run at the last evaluations before and after the crossing.

    A lead that was there before cannot come from repulsion.
    """
    rival = {point.epoch: point.composite for point in other.evaluations}
    leads = []
    for phase in (ATTRACT, REPEL):
        gaps = [p.composite - rival[p.epoch] for p in found.of_phase(phase) if p.epoch in rival]
        if not gaps:
            return ["Nothing was measured on both sides of the crossing, so the gain cannot be dated."]
        leads.append(gaps[-1])
    before, after = (f"{lead:+.3f}".replace("-", MINUS) for lead in leads)
    change = leads[1] - leads[0]
    word = "wider" if change > 0 else "narrower"
    if abs(change) < NOTABLE_F1:
        word = "the same: repulsion changed little"
    return [
        f"Its lead over {name} was {before} at the last evaluation before the crossing, {after} at the last: "
        f"{word}."
    ]


def _phases(found: Dynamics) -> str:
    parts = []
    for phase, word in ((ATTRACT, "attracting"), (REPEL, "repelling")):
        points = found.of_phase(phase)
        if points:
            best = max(point.composite for point in points)
            parts.append(
                f"{best:.3f} while {word} ({len(points)} evaluation{'s' if len(points) > 1 else ''})"
            )
    return f"Best validation composite: {'; '.join(parts)}."
