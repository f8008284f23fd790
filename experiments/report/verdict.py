"""The three questions of the report, answered in words no stronger than the evidence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.compare import relative
from experiments.report.leads import NOTABLE_F1, Leads, leads_over
from experiments.report.read_run import Run
from experiments.report.reference import STATIC, distils, reference_of, subject_of
from experiments.report.shared_settings import differences, loss_in_words, options_like
from experiments.report.tables import MINUS, TITLES, difference, signed
from experiments.report.training import ATTRACT, REPEL, Dynamics, dynamics, epoch_of
from metrics.names import HEADLINE, STUDENT, TEACHER


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
    leads = None if reference is None else leads_over(dynamics(subject), dynamics(reference))
    return [
        _whether(subject, reference, leads),
        _where(subject, reference),
        _when(subject, reference, leads),
    ]


def _whether(run: Run, reference: Run | None, leads: Leads | None) -> Answer:
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
    if gains and losses:
        return Answer(question, "Ahead in one score, behind in another", sentences)
    if not gains and not losses:
        return Answer(question, "Not shown: within chance", sentences)
    doubt, why = _not_repulsion(dynamics(run), leads, ahead=bool(gains))
    if doubt:
        return Answer(question, doubt, [*sentences, why])
    if gains:
        return Answer(question, "Yes, on these test patients", sentences, "good")
    return Answer(question, "No, it cost accuracy here", sentences, "bad")


def _not_repulsion(found: Dynamics, leads: Leads | None, ahead: bool) -> tuple[str, str]:
    """Say why a difference on test patients is not put down to repulsion, in a few words and a sentence.

    Returns:
        Two empty texts where the difference grew once the weight was negative.
    """
    place, lead = ("Ahead", "lead") if ahead else ("Behind", "lag")
    if leads is None:
        return f"{place}; cannot be dated", (
            f"There are no evaluations of both runs on either side of the zero crossing, so the {lead} may be "
            "older than repulsion."
        )
    short = f"{place}, but not through repulsion"
    if found.best is not None and found.best.phase != REPEL:
        return short, "The scored checkpoint is older than the zero crossing: it was never repelled."
    if (leads.change if ahead else -leads.change) <= 0:
        return short, (
            f"On validation patients the {lead} did not grow by {NOTABLE_F1} or more after the zero crossing, so "
            "it does not come from repulsion."
        )
    return "", ""


def _confusion(run: Run, reference: Run) -> tuple[str, list[str]]:
    """Say what else than repulsion could make the difference: in a few words (none: nothing), and in sentences."""
    different = differences(run, reference)
    texts = [f"The two also differ in {', '.join(different.values())}."] if different else []
    mine, theirs = loss_in_words(run), loss_in_words(reference)
    if mine != theirs:
        texts.append(f"The losses differ before any repulsion: {mine} against {theirs}.")
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
    arguments = " ".join(options_like(run, STATIC)).replace('"', r"\"")
    return (
        f'To find out: make train EXP={STATIC} DATA={run.record["data"]} ARGS="{arguments}" && '
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


def _when(run: Run, reference: Run | None, leads: Leads | None) -> Answer:
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
            _widened(leads, reference.experiment),
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
    return f"from {start:.2g} to {found.end_weight:.2g} (its schedule goes on to {end:.2g})"


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


def _widened(leads: Leads | None, name: str) -> str:
    """Compare the lead over another run at the last evaluations before and after the crossing."""
    if leads is None:
        return "Nothing was measured on both sides of the crossing, so the gain cannot be dated."
    before, after = (f"{lead:+.3f}".replace("-", MINUS) for lead in (leads.before, leads.after))
    word = "wider" if leads.change > 0 else "narrower"
    if not leads.change:
        word = "the same: repulsion changed little"
    return (
        f"Its lead over {name} was {before} at the last evaluation before the crossing, {after} at the last: "
        f"{word}."
    )


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
