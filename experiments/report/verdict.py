"""The report's three answers: whether repulsion helped, where, and when."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.process import relative
from experiments.report.read_run import FinishedRun
from experiments.report.reference import (
    SEEDS,
    STATIC,
    differing_settings,
    distils,
    loss_in_words,
    reference_of,
    seed_pairs,
    static_command,
    subject_of,
)
from experiments.report.tables import MINUS, difference, interval_of, signed
from experiments.report.training import (
    ATTRACT,
    NOTABLE_F1,
    REPEL,
    Dynamics,
    Leads,
    dynamics,
    epoch_of,
    leads_at,
    leads_over,
)
from metrics.benchmarks import BENCHMARKS, Benchmark
from metrics.bootstrap import Comparison, holm
from metrics.names import STUDENT, TEACHER, formatted

Pairs = Sequence[tuple[FinishedRun, FinishedRun]]
Differences = Sequence[tuple[Benchmark, Comparison, float]]

HOW_TO_COMPARE = (
    f"To find out, train {STATIC}, which distils at a constant weight without repulsion, and compare:"
)
WHETHER, WHERE, WHEN = "Did repulsion help?", "Where?", "At what point of training?"


class Answer(NamedTuple):
    """One question and its answer in a few words.

    Attributes:
        question: The question.
        short: The answer.
        sentences: What it rests on.
        tone: ``good``, ``bad`` or empty.
        command: What to run to find out, where runs are lacking.
    """

    question: str
    short: str
    sentences: list[str]
    tone: str = ""
    command: str = ""


def answers(runs: Sequence[FinishedRun]) -> list[Answer]:
    """Answer whether repulsion helped, where, and when; over all seeds that subject and reference share."""
    subject, reference = subject_of(runs), reference_of(runs)
    pairs = [] if reference is None else seed_pairs(runs, subject, reference)
    leads = _mean_leads(pairs)
    if not dynamics(subject).repels:
        text = "In no run of this report does the off-diagonal weight turn negative."
        whether = Answer(WHETHER, "No repulsion here", [text])
        if all(run.history.empty for run in runs):
            whether = Answer(
                WHETHER, "No training here", ["An evaluation; the report of the training answers this."]
            )
    elif reference is None:
        doubt = "Longer training alone could explain a rise after the weight turned negative."
        sentences = [doubt, _against_teacher(subject), HOW_TO_COMPARE]
        whether = Answer(WHETHER, "One run cannot tell", sentences, command=_comparison(subject))
    else:
        whether = _whether(pairs, leads)
    told = [run for run, _ in pairs] or [subject]
    if any(dynamics(run).repels and all(run is not one for one in told) for run in runs):
        about = f"These answers are about {', '.join(run.name for run in told)}."
        whether = whether._replace(sentences=[about, *whether.sentences])
    return [whether, _where(pairs, subject), _when(pairs, subject, leads)]


def _mean_leads(pairs: Pairs) -> Leads | None:
    """Return the mean leads over seeds; None where a seed has none."""
    found = [leads_over(dynamics(run), dynamics(reference)) for run, reference in pairs]
    known = [leads for leads in found if leads is not None]
    return Leads(*np.mean(known, axis=0).tolist()) if known and len(known) == len(found) else None


def _whether(pairs: Pairs, leads: Leads | None) -> Answer:
    run, reference = pairs[0]
    known = _score_differences(pairs, STUDENT)
    if not known:
        text = (
            f"{reference.name} was scored on other test images, so no image-by-image comparison is possible."
        )
        return Answer(WHETHER, "Not comparable", [text])
    listed = [
        f"{one.title} {signed(value.value, one)} ({interval_of(value, one)})" for one, value, _ in known
    ]
    sentences = [f"Over {reference.experiment}, on the same test images: {'; '.join(listed)}."]
    sentences += _design(known, len(pairs))
    confounded, texts = _confounders(run, reference)
    sentences += texts
    if confounded:
        return Answer(WHETHER, confounded, [*sentences, HOW_TO_COMPARE], command=_comparison(run))
    clear = [value.value for _, value, p in known if p < 0.05]
    ahead, behind = any(value > 0 for value in clear), any(value < 0 for value in clear)
    if ahead and behind:
        return Answer(WHETHER, "Ahead in one score, behind in another", sentences)
    if not ahead and not behind:
        return Answer(WHETHER, "Not shown: within chance", sentences)
    doubt, why = _not_repulsion(pairs, leads, ahead)
    if doubt:
        return Answer(WHETHER, doubt, [*sentences, why])
    if len(pairs) == 1:
        place = "Ahead" if ahead else "Behind"
        return Answer(WHETHER, f"{place} with this seed; other seeds unknown", sentences)
    if ahead:
        return Answer(WHETHER, f"Yes, over {len(pairs)} seeds", sentences, "good")
    return Answer(WHETHER, f"No, it cost accuracy over {len(pairs)} seeds", sentences, "bad")


def _score_differences(pairs: Pairs, rival: str) -> Differences:
    """Return the differences from a rival in every benchmark that both were scored on, with p values corrected."""
    compared = [(benchmark, difference(pairs, rival, benchmark)) for benchmark in BENCHMARKS.values()]
    known = [(benchmark, value) for benchmark, value in compared if value is not None]
    corrected = holm([value.p for _, value in known]).tolist()
    return [(*one, p) for one, p in zip(known, corrected, strict=True)]


def _design(found: Differences, seeds: int) -> list[str]:
    """Return what a comparison is over, its corrected p values, and the smallest difference that it could find."""
    chances = ", ".join(f"{one.title} {formatted(p, 3, 'none')}" for one, _, p in found)
    reach = ", ".join(
        f"{one.title} {formatted(value.detectable, one.digits, 'none')}" for one, value, _ in found
    )
    over = f"{seeds} seeds and the test patients together" if seeds > 1 else "patients"
    texts = [
        f"Intervals are 95 % over {over}; p, corrected for the number of scores (Holm): {chances}.",
        f"The smallest true differences that this design finds with 80 % power: {reach}.",
    ]
    if seeds == 1:
        texts.append(
            "Neither includes the variation between seeds: repeat with other seeds before believing a small difference."
        )
    return texts


def _not_repulsion(pairs: Pairs, leads: Leads | None, ahead: bool) -> tuple[str, str]:
    """Return why a difference on test patients is not attributed to repulsion, in a few words and a sentence.

    Both are empty where the difference grew once the weight was negative, or the weight was never positive.
    """
    if not (dynamics(pairs[0][0]).weights > 0).any():  # it repels from the start
        return "", ""
    place, lead = ("Ahead", "lead") if ahead else ("Behind", "lag")
    if leads is None:
        return f"{place}; cannot be dated", (
            f"There are no evaluations of both runs on either side of the zero crossing, so the {lead} may be "
            "older than repulsion."
        )
    short = f"{place}, but not because of repulsion"
    early = [run for run, _ in pairs if (one := dynamics(run).checkpoint) is not None and one.phase != REPEL]
    if 2 * len(early) >= len(pairs):
        seeds = f" in {len(early)} of {len(pairs)} seeds" if len(pairs) > 1 else ""
        return short, f"The scored checkpoint is from before the zero crossing{seeds}: it was never repelled."
    if (leads.change if ahead else -leads.change) <= 0:
        return short, (
            f"In validation the {lead} did not grow by {NOTABLE_F1} or more after the zero crossing."
        )
    return "", ""


def _confounders(run: FinishedRun, reference: FinishedRun) -> tuple[str, list[str]]:
    """Return what else could explain the difference: in a few words, empty for nothing, and in sentences."""
    different = differing_settings(run, reference)
    texts = [f"The two also differ in {', '.join(different.values())}."] if different else []
    mine, theirs = loss_in_words(run), loss_in_words(reference)
    if mine != theirs:
        texts.append(f"The losses differ before any repulsion: {mine} against {theirs}.")
    if not distils(reference):
        text = f"{reference.experiment} uses no teacher: this is the effect of distillation and repulsion together."
        return "Confounded with distillation", [text, *texts]
    return ("Confounded with other settings" if set(different) - SEEDS else ""), texts


def _against_teacher(run: FinishedRun) -> str:
    listed = [
        f"{one.title} {signed(value.value, one)}"
        for one, value, _ in _score_differences([(run, run)], TEACHER)
    ]
    if not listed:
        return "There is no teacher to compare with."
    return f"Over its teacher, on test patients: {'; '.join(listed)}."


def _comparison(run: FinishedRun) -> str:
    return f"{static_command(run)} && make report RUN={shlex.quote(relative(run.folder))}"


def _where(pairs: Pairs, subject: FinishedRun) -> Answer:
    rival = STUDENT if pairs else TEACHER
    changes = []
    for benchmark in subject.benchmarks():
        scored = [
            [
                one.details(model, benchmark.name).get("per_class", {})
                for one, model in zip(pair, (STUDENT, rival), strict=True)
            ]
            for pair in pairs or [(subject, subject)]
        ]
        for name in (name for name in scored[0][0] if all(name in part for pair in scored for part in pair)):
            after, before = np.mean([[part[name]["f1"] for part in pair] for pair in scored], axis=0).tolist()
            changes.append((after - before, name, before, after))
    if not changes:
        return Answer(WHERE, "No classes to compare", ["No plane benchmark was scored on both."])
    changes.sort(reverse=True)
    up = [change for change in changes if change[0] >= NOTABLE_F1]
    down = [change for change in reversed(changes) if change[0] <= -NOTABLE_F1]
    seeds = f", means of {len(pairs)} seeds" if len(pairs) > 1 else ""
    sentences = [f"F1 by class{seeds}, over {pairs[0][1].experiment if pairs else 'its teacher'}:"]
    for word, some in (("Up", up), ("Down", down)):
        listed = ", ".join(f"{name} {before:.2f} to {after:.2f}" for _, name, before, after in some[:3])
        listed += f" and {len(some) - 3} more" if len(some) > 3 else ""
        sentences.append(f"{word}: {listed or f'none by {NOTABLE_F1} or more'}.")
    sentences.append(
        "A class has few images, and these numbers have no intervals: see the images below, too."
    )
    return Answer(WHERE, f"Most for {changes[0][1]}" if up else "Nowhere notable", sentences)


def _when(pairs: Pairs, run: FinishedRun, leads: Leads | None) -> Answer:
    found = dynamics(run)
    best = found.best
    if best is None:
        text = "This folder holds an evaluation without a training history."
        return Answer(WHEN, "No validation scores", [text])
    if found.crossing is None:
        sign = "was negative from the start" if found.repels else "never turned negative"
        text = f"The best validation composite, {best.composite:.3f}, came at epoch {best.epoch}; the weight {sign}."
        return Answer(WHEN, f"Best at epoch {best.epoch}", [text])
    epoch = epoch_of(run, found.crossing)
    where = "" if epoch is None else f", in epoch {int(epoch)}"
    fall = f"The weight fell from {found.weights[0]:.2g} to {found.weights[-1]:.2g}".replace(
        " -", f" {MINUS}"
    )
    sentences = [f"{fall} and crossed zero after step {int(found.crossing)}{where}."]
    if len(pairs) > 1:
        late = sum((one := dynamics(mine).best) is not None and one.phase == REPEL for mine, _ in pairs)
        text = f"In {late} of {len(pairs)} seeds the best validation score is from after the crossing."
        sentences += [text, _lead_change(leads, f"{pairs[0][1].experiment}, mean of the seeds,")]
        return Answer(
            WHEN, f"Best while repelling in {late} of {len(pairs)} seeds", sentences, "" if late else "bad"
        )
    sentences.append(_phases(found))
    for _, reference in pairs:
        sentences.append(_ahead_from(found, dynamics(reference), reference.experiment))
        sentences.append(_lead_change(leads, reference.experiment))
    place = f"The best validation score is from epoch {best.epoch}, step {best.step:.0f}, "
    if best.phase == REPEL:
        return Answer(WHEN, "Best while repelling", [*sentences, f"{place}after the crossing."])
    scored = ": the model that was scored on test patients was never repelled"
    if not found.selects:
        weights = f"the weights selected by {found.monitor}" if found.monitor else "the last weights"
        scored = f"; {weights} were scored on test patients"
    note = f"before the crossing{scored}."
    return Answer(WHEN, "Best before repulsion began", [*sentences, place + note], "bad")


def _phases(found: Dynamics) -> str:
    parts = []
    for phase, word in ((ATTRACT, "attracting"), (REPEL, "repelling")):
        scores = [point.composite for point in found.of_phase(phase)]
        if scores:
            plural = "s" * (len(scores) > 1)
            parts.append(f"{max(scores):.3f} while {word} ({len(scores)} evaluation{plural})")
    return f"Best validation composite: {'; '.join(parts)}."


def _ahead_from(found: Dynamics, other: Dynamics, name: str) -> str:
    """Return from which epoch on the validation composite stayed above another run's."""
    shared = leads_at(found, other)
    if not shared:
        return f"{name} has no validation scores at the same epochs."
    behind = max((point.epoch for point, lead in shared if lead <= 0), default=0)
    ahead = next((point for point, _ in shared if point.epoch > behind), None)
    if ahead is None:
        return f"At the last epoch it was not ahead of {name} in validation."
    phase = {REPEL: ", while repelling", ATTRACT: ", while still attracting"}.get(ahead.phase, "")
    return f"It stayed ahead of {name} in validation from epoch {ahead.epoch} on{phase}."


def _lead_change(leads: Leads | None, name: str) -> str:
    """Compare the lead over another run at the last evaluations before and after the crossing."""
    if leads is None:
        return "There are no evaluations on both sides of the crossing, so the gain cannot be dated."
    before, after = (f"{lead:+.3f}".replace("-", MINUS) for lead in (leads.before, leads.after))
    word = (
        "wider" if leads.change > 0 else "narrower" if leads.change else "the same: repulsion changed little"
    )
    return f"Its lead over {name} was {before} at the last evaluation before the crossing, {after} at the last: {word}."
