"""The full-size training step: ViT-L/14 teacher, MobileCLIP2-S0 student, bf16, batch 512, on random pixels.

The baseline is eager with a live teacher, blocking copies and the authors' loss. Ours is `DistillationModule` as
training runs it. What needs no compilation is measured and written first.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._authors import srkd_loss
from benchmarks._record import Row
from benchmarks.gpu.goals import FASTER, STEP
from benchmarks.gpu.stage import Parts, Stage, peaks, release, student, teacher
from lightning_modules import DistillationModule
from losses import Embeddings, SRKDLoss
from models import DualEncoder, freeze

Batch = dict[str, Tensor]
Mark = Callable[[str], None]
LEFT_OUT = {"live": ("teacher_embedding",), "cached": ("teacher_image", "teacher_tokens")}
MODES = {"live": "live teacher", "cached": "teacher cache"}


def host_batch(B: int, own: DualEncoder, taught: DualEncoder, pinned: bool) -> Batch:
    """Return random images and equally long texts."""
    text = ["fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"] * B
    batch = {"teacher_embedding": torch.nn.functional.normalize(torch.randn(B, 2, taught.embed_dim), dim=-1)}
    for role, model in (("student", own), ("teacher", taught)):
        side = model.preprocessing.image_size
        batch[f"{role}_image"] = torch.randn(B, 3, side, side)
        batch[f"{role}_tokens"] = model.tokenize(text)
    return {name: value.pin_memory() for name, value in batch.items()} if pinned else batch


def embed(model: DualEncoder, on: Batch, role: str, mark: Mark, whole: bool) -> Embeddings:
    """Embed in one call, as training does, or tower by tower."""
    image, tokens = on[f"{role}_image"], on[f"{role}_tokens"]
    if whole:
        images, texts = model(image, tokens)
        mark(f"{role}, image and text")
    else:
        images = model.encode_image(image)
        mark(f"{role} image")
        texts = model.encode_text(tokens)
        mark(f"{role} text")
    return Embeddings(images, texts, model.logit_scale)


class Steps:
    """The ways to take a step, on the same batch."""

    def __init__(self, stage: Stage, B: int) -> None:
        self.stage, self.device = stage, stage.device
        self.student = student(stage.quick).to(self.device).train()
        self.teacher = freeze(teacher(stage.quick).to(self.device))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5, fused=False, foreach=True)
        self.eager = self.module(False)
        self.batch = host_batch(B, self.student, self.teacher, self.device == "cuda")

    def module(self, compiled: bool | str) -> Any:
        """Return our module with its optimiser as training makes it."""
        own, taught = copy.deepcopy(self.student), copy.deepcopy(self.teacher)
        module = DistillationModule(own, taught, SRKDLoss(), compile=compiled)
        module = module.to(self.device).train()
        plan: Any = SimpleNamespace(
            precision="bf16-mixed", estimated_stepping_batches=10_000, gradient_clip_val=1.0
        )
        module.trainer = plan
        module.own_optimizer = module.configure_optimizers()["optimizer"]
        return module

    def load(self, *left_out: str, wait: bool = False) -> Batch:
        """Copy the batch to the device: as the authors do, or as our training does, with its texts cut."""
        batch = {name: value for name, value in self.batch.items() if name not in left_out}
        if not wait:
            batch = self.eager.on_before_batch_transfer(batch, 0)
        return {name: value.to(self.device, non_blocking=not wait) for name, value in batch.items()}

    def authors(self, mark: Mark = lambda _: None) -> None:
        """Take the baseline's step."""
        on = self.load("teacher_embedding", wait=True)
        mark("copies")
        with torch.autocast(self.device, torch.bfloat16):
            with torch.no_grad():
                taught = embed(self.teacher, on, "teacher", mark, whole=False)
            own = embed(self.student, on, "student", mark, whole=False)
        self.optimizer.zero_grad(set_to_none=True)
        loss = srkd_loss(
            (own.image, own.text, own.logit_scale), (taught.image, taught.text, taught.logit_scale)
        )
        mark("loss")
        loss.backward()
        mark("backward")
        self.optimizer.step()
        mark("optimiser")

    def ours(self, module: Any, mode: str) -> None:
        """Take a step as Lightning does, without clipping and logging."""
        on = self.load(*LEFT_OUT[mode])
        with torch.autocast(self.device, torch.bfloat16):
            total = module.compute_loss(on)["total"]
        module.own_optimizer.zero_grad(set_to_none=True)
        total.backward()
        module.own_optimizer.step()
        module.student.clamp_logit_scale(module.max_logit_scale)

    def ours_in_parts(self, module: Any, whole: bool, mark: Mark) -> None:
        """Take the live step part by part."""
        on = self.load("teacher_embedding")
        mark("copies")
        with torch.autocast(self.device, torch.bfloat16):
            with torch.no_grad():
                taught = embed(module.teacher, on, "teacher", mark, whole)
            own = embed(module.student, on, "student", mark, whole)
            total = module.loss(own, taught)["total"]
        mark("loss")
        module.own_optimizer.zero_grad(set_to_none=True)
        total.backward()
        mark("backward")
        module.own_optimizer.step()
        module.student.clamp_logit_scale(module.max_logit_scale)
        mark("optimiser")

    def tflop(self) -> dict[str, float]:
        """Count the 10^12 operations of a batch: the teacher's forward pass, and three of the student's."""
        few, found = {name: value[:4] for name, value in self.load().items()}, {}
        for role, model, passes in (("teacher", self.teacher, 1), ("student", self.student, 3)):
            with (
                torch.no_grad(),
                torch.autocast(self.device, torch.bfloat16),
                FlopCounterMode(display=False) as counter,
            ):
                model(few[f"{role}_image"], few[f"{role}_tokens"])
            found[role] = passes * counter.get_total_flops() / 4e12 * len(self)
        return found

    def __len__(self) -> int:
        return len(self.batch["student_image"])


def in_parts(steps: Steps, name: str, step: Callable[[Mark], None]) -> None:
    """Measure the milliseconds of a way's parts: a row for each way, medians of five steps."""
    step(lambda _: None)
    found = []
    for _ in range(5):
        parts = Parts(steps.device)
        step(parts)
        found.append(parts.milliseconds())
    medians = {part: float(np.median([one[part] for one in found])) for part in found[0]}
    steps.stage.facts.setdefault("parts", {})[name] = medians
    listed = ", ".join(f"{part} {value:.1f}" for part, value in medians.items())
    whole = [sum(one.values()) for one in found]
    steps.stage.add(Row(STEP, f"ms by part: {name}", "ms in all", whole, note=listed))


def compare(steps: Steps, kind: str, rounds: int = 4) -> None:
    """Time our step of one kind, "eager" or "compiled", live and with kept embeddings, beside the authors' way."""
    stage, module = steps.stage, getattr(steps, kind)
    ways = {"authors": steps.authors, **{mode: partial(steps.ours, module, mode) for mode in MODES}}
    times = stage.turns(ways, 2 if stage.quick else rounds, 1 if stage.quick else 2)
    stage.facts["batch"] = len(steps)
    speeds = stage.facts.setdefault("images_per_s", {})
    speeds |= {
        f"{mode}, {kind}" if mode != "authors" else mode: len(steps) / float(np.median(t))
        for mode, t in times.items()
    }
    for mode, title in MODES.items():
        rate, ratio = speeds[f"{mode}, {kind}"], times["authors"] / times[mode]
        more: dict[str, Any] = {
            "seconds": times, "note": f"batch {len(steps)}: {rate:.0f} images/s, authors' way {speeds['authors']:.0f}"
        }  # fmt: skip
        if kind == "compiled":
            stage.goal(mode, ratio, **more)
        else:
            stage.add(Row(STEP, f"{title}, {kind}", FASTER, ratio, **more))
    if kind == "compiled":
        share(steps, times["live"])


def share(steps: Steps, seconds: np.ndarray) -> None:
    """Compare the operations of the towers with the measured peak, over the whole step and over the towers' part."""
    stage, tflop = steps.stage, steps.tflop()
    peak, parts = stage.facts["peak"]["bf16_tflops"], stage.facts.get("parts", {}).get("ours, compiled", {})
    reached = sum(tflop.values()) / seconds
    towers = sum(
        ms for name, ms in parts.items() if name.startswith(("teacher", "student")) or name == "backward"
    )
    inside = f"; {sum(tflop.values()) / towers * 1e3 / peak:.0%} within the towers" if towers else ""
    counted = ", ".join(f"{role} {value:.3g}" for role, value in tflop.items())
    note = (
        f"{np.median(reached):.0f} of {peak:.0f} TFLOP/s over the whole step{inside}; TFLOP a step: {counted}"
    )
    stage.goal("share", reached / peak, note=note)


def without(steps: Steps, case: str, ways: dict[str, Callable[[], Any]], repeat: int = 2) -> None:
    """Add the row of an optimisation: the first way is with it, the second without it."""
    on, off = ways
    times = steps.stage.turns(ways, 2 if steps.stage.quick else 5, 1 if steps.stage.quick else repeat, warm=2)
    milliseconds = ", ".join(f"{name} {1e3 * float(np.median(t)):.3g} ms" for name, t in times.items())
    row = Row(
        STEP, case, f"times the time without it ({off})", times[on] / times[off], better="lower",
        seconds=times, note=milliseconds,
    )  # fmt: skip
    steps.stage.add(row)


def fused_loss(steps: Steps) -> None:
    """Compare the default loss with the plain form, forward and backward."""
    shape, unit = (len(steps), steps.student.embed_dim), torch.nn.functional.normalize
    scale = torch.tensor(100.0, device=steps.device)
    own = [unit(torch.randn(shape, device=steps.device), dim=1).requires_grad_() for _ in range(2)]
    taught = Embeddings(*steps.load()["teacher_embedding"].unbind(1), scale)

    def way(kernel: Any) -> Callable[[], Any]:
        function = SRKDLoss(kernel=kernel)
        return lambda: function(Embeddings(*own, scale), taught)["total"].backward()

    without(steps, "fused loss, forward and backward", {"fused": way("fused"), "plain": way("plain")}, 5)


def switched_off(steps: Steps) -> None:
    """Measure what needs no compilation: each optimisation on and off once, in the part that it concerns."""
    stage, device, module = steps.stage, steps.device, steps.eager
    on = steps.load()
    image, tokens = on["teacher_image"], on["teacher_tokens"]

    def autocast(run: Callable[[], Any], enabled: bool = True, gradients: bool = False) -> Callable[[], Any]:
        def call() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=enabled), torch.set_grad_enabled(gradients):
                run()

        return call

    def attention() -> None:
        def plain() -> None:
            with sdpa_kernel(SDPBackend.MATH):
                steps.teacher.encode_image(image)

        eager = autocast(partial(steps.teacher.encode_image, image))
        without(
            steps, "fused attention, eager teacher image tower", {"fused": eager, "math": autocast(plain)}
        )

    def half_weights() -> None:
        half, pixels = copy.deepcopy(steps.teacher).to(torch.bfloat16), image.bfloat16()
        ways = {
            "bfloat16": autocast(lambda: half(pixels, tokens), enabled=False),
            "float32": autocast(lambda: steps.teacher(image, tokens)),
        }
        without(steps, "teacher's weights in bfloat16, eager towers", ways)

    def channels_last() -> None:
        def both(model: DualEncoder) -> Callable[[], Any]:
            return autocast(lambda: model.encode_image(on["student_image"]).sum().backward(), gradients=True)

        ways = {"channels-last": both(module.student), "contiguous": both(steps.student)}
        without(steps, "channels-last, eager student image tower", ways, 1)

    def fused_adamw() -> None:
        for parameter in module.student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        kinds: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "foreach": {"foreach": True}}
        made = {k: torch.optim.AdamW(module.student.parameters(), lr=0.0, **o) for k, o in kinds.items()}
        without(steps, "fused AdamW", {k: optimizer.step for k, optimizer in made.items()}, 5)

    for run in (attention, half_weights, channels_last, fused_adamw, partial(fused_loss, steps)):
        name = getattr(run, "__name__", "fused_loss")
        stage.measured(Row(STEP, f"switched off once: {name}", "times the time", []), run)
    module.student.zero_grad(set_to_none=True)
    steps.student.zero_grad(set_to_none=True)


def compile_both(steps: Steps) -> None:
    """Compile as training does, the teacher first, and keep the seconds of each first call."""
    stage = steps.stage
    steps.compiled = module = steps.module(stage.backend)
    for role, context in (("teacher", torch.no_grad()), ("student", nullcontext())):
        on, start = steps.load(), time.perf_counter()
        with context, torch.autocast(steps.device, torch.bfloat16):
            model = getattr(module, role)
            image, text = model(on[f"{role}_image"], on[f"{role}_tokens"])
        if role == "student":
            (image.sum() + text.sum()).backward()
            module.student.zero_grad(set_to_none=True)
        stage.seconds(lambda: None)  # waits
        took = time.perf_counter() - start
        stage.add(Row(STEP, f"compilation of the {role}", "s", [took], better="lower"))
        if role == "teacher":
            stage.measured(
                Row(STEP, "compiled teacher", "", []),
                partial(compiled_teacher, steps, "whole", module.teacher),
            )


def compiled_teacher(steps: Steps, kind: str, compiled: DualEncoder) -> None:
    """Compare a compiled teacher with the eager one."""
    on = steps.load()

    @torch.no_grad()
    def way(model: DualEncoder) -> None:
        with torch.autocast(steps.device, torch.bfloat16):
            model(on["teacher_image"], on["teacher_tokens"])

    ways = {"compiled": partial(way, compiled), "eager": partial(way, steps.eager.teacher)}
    without(steps, f"compiled teacher ({kind})", ways)


def regional(steps: Steps) -> None:
    """Compile each repeated block of the teacher in place of the whole."""
    taught = copy.deepcopy(steps.teacher)
    blocks = [part for part in taught.modules() if type(part).__name__ == "ResidualAttentionBlock"]
    for block in blocks:
        block.compile(backend=steps.stage.backend)
    on, start = steps.load(), time.perf_counter()
    with torch.no_grad(), torch.autocast(steps.device, torch.bfloat16):
        taught(on["teacher_image"], on["teacher_tokens"])
    steps.stage.seconds(lambda: None)  # waits
    took = time.perf_counter() - start
    case = f"compilation of the teacher's {len(blocks)} blocks"
    steps.stage.add(Row(STEP, case, "s", [took], better="lower"))
    compiled_teacher(steps, "block by block", taught)


def memory(steps: Steps, kind: str) -> None:
    """Add the peak memory of a live step beyond models and optimiser states."""
    gigabytes = steps.stage.peak_gb(partial(steps.ours, getattr(steps, kind), "live"))
    case = f"live teacher, {kind}, batch {len(steps)}"
    steps.stage.add(Row(STEP, case, "GB at the peak beyond the weights", [gigabytes], better="lower"))


def eager(stage: Stage, steps: Steps) -> None:
    """Compare the eager steps at the largest batch that fits, from the one given."""
    while True:
        try:
            return compare(steps, "eager")
        except torch.OutOfMemoryError as error:
            B = len(steps) // 2
            stage.add(Row(STEP, f"batch {2 * B}", "", [], reason=f"{str(error)[:60]}; batch {B} instead"))
        steps.batch = host_batch(B, steps.student, steps.teacher, stage.device == "cuda")
        for optimizer in (steps.optimizer, steps.eager.own_optimizer):
            optimizer.zero_grad(set_to_none=True)
        release()


def run(stage: Stage) -> None:
    """Measure everything, what needs no compilation first."""
    made: list[Steps] = []
    stage.measured(Row("GPU card", "peaks", "TFLOP/s", []), partial(peaks, stage))
    built = stage.measured(
        Row(STEP, "models", "", []),
        lambda: made.append(Steps(stage, 8 if stage.quick else 512)),
        "live", "cached", "share",
    )  # fmt: skip
    if not built:
        return
    steps = made[0]
    stage.measured(Row(STEP, "eager", FASTER, []), lambda: eager(stage, steps))
    ways = {
        "authors' way, eager": steps.authors,
        "ours, eager": partial(steps.ours_in_parts, steps.eager, False),
    }
    for name, way in ways.items():
        stage.measured(Row(STEP, f"ms by part: {name}", "ms", []), partial(in_parts, steps, name, way))
    stage.measured(Row(STEP, "peak memory", "GB", []), partial(memory, steps, "eager"))
    switched_off(steps)
    goals = "live", "cached", "share"
    if not stage.measured(Row(STEP, "compilation", "s", []), lambda: compile_both(steps), *goals, needs=15):
        return
    whole = partial(steps.ours_in_parts, steps.compiled, True)
    row = Row(STEP, "ms by part: ours, compiled", "ms", [])
    stage.measured(row, partial(in_parts, steps, "ours, compiled", whole))
    stage.measured(Row(STEP, "compiled", FASTER, []), partial(compare, steps, "compiled"), *goals)
    stage.measured(Row(STEP, "peak memory, compiled", "GB", []), partial(memory, steps, "compiled"))
    stage.measured(Row(STEP, "compiled teacher (block by block)", "s", []), lambda: regional(steps), needs=20)
