"""The full-size training step: ViT-L/14 teacher, MobileCLIP2-S0 student, bf16, batch 512, on random pixels.

The baseline is eager with a live teacher, blocking copies and the authors' loss. Ours is `DistillationModule` as
training runs it. What needs no compilation is measured and written first.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._authors import srkd_loss
from benchmarks._record import Row, interleave, seconds_of
from benchmarks.gpu.stage import FASTER, STEP, Stage, milliseconds, student, teacher
from lightning_modules import DistillationModule
from losses import Embeddings, SRKDLoss
from models import DualEncoder, freeze

Batch = dict[str, Tensor]
MODES = {"live": "live teacher", "cached": "teacher cache"}
NOT_COPIED = {"live": ("teacher_embedding",), "cached": ("teacher_image", "teacher_tokens")}


def host_batch(B: int, own: DualEncoder, taught: DualEncoder, pinned: bool) -> Batch:
    """Return random images and equally long texts."""
    text = ["fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"] * B
    batch = {"teacher_embedding": torch.nn.functional.normalize(torch.randn(B, 2, taught.embed_dim), dim=-1)}
    for role, model in (("student", own), ("teacher", taught)):
        side = model.preprocessing.image_size
        batch[f"{role}_image"] = torch.randn(B, 3, side, side)
        batch[f"{role}_tokens"] = model.tokenize(text)
    return {name: value.pin_memory() for name, value in batch.items()} if pinned else batch


class Steps:
    """The ways to take a step, on the same batch: "authors", and our module "eager" and "compiled"."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.device = stage, stage.device
        self.student = student(stage.quick).to(self.device).train()
        self.teacher = freeze(teacher(stage.quick).to(self.device))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5, fused=False, foreach=True)
        self.ours = {"eager": self.module(False)}
        self.batch = host_batch(stage.batch, self.student, self.teacher, self.device == "cuda")
        self.autocast = torch.autocast(self.device, torch.bfloat16)

    def module(self, compiled: bool | str) -> Any:
        """Return our module with its optimiser as training makes it."""
        own, taught = copy.deepcopy(self.student), copy.deepcopy(self.teacher)
        module = DistillationModule(own, taught, SRKDLoss(), compile=compiled).to(self.device).train()
        plan: Any = SimpleNamespace(
            precision="bf16-mixed", estimated_stepping_batches=10_000, gradient_clip_val=1.0,
            accumulate_grad_batches=1,
        )  # fmt: skip
        module.trainer = plan
        module.own_optimizer = module.configure_optimizers()["optimizer"]
        module.on_fit_start()  # TF32 for the loss's products, of the authors' way as well
        return module

    def load(self, *left_out: str, wait: bool = False) -> Batch:
        """Copy the batch to the device: as the authors do, or as our training does, with its texts cut."""
        batch = {name: value for name, value in self.batch.items() if name not in left_out}
        if not wait:
            batch = self.ours["eager"].on_before_batch_transfer(batch, 0)
        return {name: value.to(self.device, non_blocking=not wait) for name, value in batch.items()}

    def step(self, kind: str, mode: str) -> None:
        """Take our step as Lightning does, without clipping and logging."""
        module = self.ours[kind]
        on = self.load(*NOT_COPIED[mode])
        with self.autocast:
            total = module.compute_loss(on)["total"]
        module.own_optimizer.zero_grad(set_to_none=True)
        total.backward()
        module.own_optimizer.step()
        module.student.clamp_logit_scale(module.max_logit_scale)

    def live_step(self, kind: str, mark: Callable[[str], None] = lambda _: None) -> None:
        """Take a step with a live teacher part by part; a compiled tower is one part with the other."""
        module = self.ours.get(kind)
        own, taught = (module.student, module.teacher) if module else (self.student, self.teacher)
        optimizer = module.own_optimizer if module else self.optimizer
        on = self.load("teacher_embedding", wait=module is None)
        mark("copies")

        def embed(model: DualEncoder, role: str) -> Embeddings:
            image, tokens = on[f"{role}_image"], on[f"{role}_tokens"]
            if kind == "compiled":
                images, texts = model(image, tokens)
                mark(f"{role}, image and text")
            else:
                images = model.encode_image(image)
                mark(f"{role} image")
                texts = model.encode_text(tokens)
                mark(f"{role} text")
            return Embeddings(images, texts, model.logit_scale)

        with self.autocast:
            with torch.no_grad():
                t = embed(taught, "teacher")
            s = embed(own, "student")
            if module:
                loss = module.loss(s, t)["total"]
        if not module:
            loss = srkd_loss((s.image, s.text, s.logit_scale), (t.image, t.text, t.logit_scale))
        mark("loss")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mark("backward")
        optimizer.step()
        if module:
            own.clamp_logit_scale(module.max_logit_scale)
        mark("optimiser")

    def __len__(self) -> int:
        return len(self.batch["student_image"])


def peaks(stage: Stage) -> None:
    """Measure bf16 and float32 matrix products, TFLOP/s, and copies within the card and to it, GB/s."""
    side, size = (256, 2**20) if stage.quick else (8192, 2**30)
    host = torch.empty(size // 4, dtype=torch.uint8, pin_memory=stage.device == "cuda")
    block, there = (torch.empty(size, dtype=torch.uint8, device=stage.device) for _ in range(2))
    ways: dict[str, Callable[[], Any]] = {
        "copy": lambda: there.copy_(block),
        "to the card": lambda: there[: size // 4].copy_(host, non_blocking=True),
    }
    for kind in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=stage.device, dtype=kind) for _ in range(2))
        ways[str(kind).removeprefix("torch.")] = partial(torch.mm, a, b)
    times = {name: float(np.median(t)) for name, t in interleave(ways, 5, 5).items()}
    stage.facts["peak"] = peak = {
        "bf16_tflops": 2 * side**3 / times["bfloat16"] / 1e12,
        "float32_tflops": 2 * side**3 / times["float32"] / 1e12,
        "copy_gb_s": 2 * size / times["copy"] / 1e9,
        "to_card_gb_s": size / 4 / times["to the card"] / 1e9,
    }
    note = ", ".join(f"{name} {value:.4g}" for name, value in peak.items())
    case = f"bf16 matrix product of side {side:,}"
    stage.add(Row("GPU card", case, "TFLOP/s", [peak["bf16_tflops"]], note=note))


def in_parts(steps: Steps, name: str, kind: str) -> None:
    """Measure the milliseconds of the parts of a step with a live teacher, medians of five steps."""
    on_card = steps.device == "cuda"

    def now() -> Any:
        if not on_card:
            return 1e3 * time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    steps.live_step(kind)
    found = []
    for _ in range(1 if steps.stage.quick else 5):
        points = [("", now())]
        steps.live_step(kind, lambda part, points=points: points.append((part, now())))
        if on_card:
            torch.cuda.synchronize()
        found.append({
            part: start.elapsed_time(end) if on_card else end - start
            for (_, start), (part, end) in pairwise(points)
        })  # fmt: skip
    medians = {part: float(np.median([one[part] for one in found])) for part in found[0]}
    steps.stage.facts.setdefault("parts", {})[name] = medians
    note = ", ".join(f"{part} {value:.1f}" for part, value in medians.items())
    whole = [sum(one.values()) for one in found]
    steps.stage.add(Row(STEP, f"ms by part: {name}", "ms in all", whole, note=note))


def compare(steps: Steps, kind: str) -> None:
    """Time our step, "eager" or "compiled", live and with kept embeddings, beside the authors' way; add its memory."""
    stage, B = steps.stage, len(steps)
    ways = {"authors": partial(steps.live_step, "authors")}
    ways |= {mode: partial(steps.step, kind, mode) for mode in MODES}
    times = interleave(ways, *((2, 1) if stage.quick else (4, 2)))
    stage.facts["batch"] = B
    speeds = stage.facts.setdefault("images_per_s", {})
    for mode, seconds in times.items():
        speeds["authors" if mode == "authors" else f"{mode}, {kind}"] = B / float(np.median(seconds))
    for mode, title in MODES.items():
        note = f"batch {B}: {speeds[f'{mode}, {kind}']:.0f} images/s, authors' way {speeds['authors']:.0f}"
        ratio = times["authors"] / times[mode]
        if kind == "compiled":
            stage.goal(mode, ratio, seconds=times, note=note)
        else:
            stage.add(Row(STEP, f"{title}, {kind}", FASTER, ratio, seconds=times, note=note))
    if kind == "compiled" and "peak" in stage.facts:  # its measurement may have failed
        share(steps, times["live"])
    memory = [stage.peak_gb(partial(steps.step, kind, "live"))]
    case = f"live teacher, {kind}, batch {B}"
    stage.add(Row(STEP, case, "GB at the peak beyond the weights", memory, better="lower"))


def share(steps: Steps, seconds: np.ndarray) -> None:
    """Compare the operations of a step, the teacher's forward pass and three of the student's, with the peak."""
    few, tflop = {name: value[:4] for name, value in steps.load().items()}, {}
    for role, model, passes in (("teacher", steps.teacher, 1), ("student", steps.student, 3)):
        with torch.no_grad(), steps.autocast, FlopCounterMode(display=False) as counter:
            model(few[f"{role}_image"], few[f"{role}_tokens"])
        tflop[role] = passes * counter.get_total_flops() / 4e12 * len(steps)
    peak, reached = steps.stage.facts["peak"]["bf16_tflops"], sum(tflop.values()) / seconds
    counted = ", ".join(f"{role} {value:.3g}" for role, value in tflop.items())
    note = f"{np.median(reached):.0f} of {peak:.0f} TFLOP/s over the whole step; TFLOP a step: {counted}"
    steps.stage.goal("share", reached / peak, note=note)


def without(steps: Steps, case: str, ways: dict[str, Callable[[], Any]], repeat: int = 2) -> None:
    """Add the row of an optimisation: the first way is with it, the second without it."""
    on, off = ways
    times = interleave(ways, *((2, 1) if steps.stage.quick else (5, repeat)))
    measure, ratio = f"times the time without it ({off})", times[on] / times[off]
    row = Row(STEP, case, measure, ratio, better="lower", seconds=times, note=milliseconds(times))
    steps.stage.add(row)


def switched_off(steps: Steps) -> None:
    """Measure what needs no compilation: each optimisation on and off, in the part that it concerns."""
    on, ours = steps.load(), steps.ours["eager"].student
    image, tokens = on["teacher_image"], on["teacher_tokens"]
    half, half_image = copy.deepcopy(steps.teacher).to(torch.bfloat16), image.bfloat16()
    forward = steps.autocast(torch.no_grad()(lambda: steps.teacher.encode_image(image)))
    scale, unit = torch.tensor(100.0, device=steps.device), torch.nn.functional.normalize
    shape = len(steps), ours.embed_dim
    own = [unit(torch.randn(shape, device=steps.device), dim=1).requires_grad_() for _ in range(2)]
    taught = Embeddings(*on["teacher_embedding"].unbind(1), scale)

    def backward(model: DualEncoder) -> Any:
        return steps.autocast(lambda: model.encode_image(on["student_image"]).sum().backward())

    def adamw(**form: bool) -> Any:
        optimizer = torch.optim.AdamW(ours.parameters(), lr=0.0, **form)
        return optimizer.step

    def loss(kernel: Any) -> Any:
        function = SRKDLoss(kernel=kernel)
        return lambda: function(Embeddings(*own, scale), taught)["total"].backward()

    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter)
    cases: dict[str, tuple[dict[str, Callable[[], Any]], int]] = {
        "fused attention, eager teacher image tower": (
            {"fused": forward, "math": sdpa_kernel(SDPBackend.MATH)(forward)}, 2,
        ),
        "teacher's weights in bfloat16, eager towers": (
            {"bfloat16": torch.no_grad()(lambda: half(half_image, tokens)),
             "float32": steps.autocast(torch.no_grad()(lambda: steps.teacher(image, tokens)))}, 2,
        ),
        "channels-last, eager student image tower": (
            {"channels-last": backward(ours), "contiguous": backward(steps.student)}, 1,
        ),
        "fused AdamW": ({"fused": adamw(fused=True), "foreach": adamw(foreach=True)}, 5),
        "fused loss, forward and backward": ({"fused": loss("fused"), "plain": loss("plain")}, 5),
    }  # fmt: skip
    for case, (ways, repeat) in cases.items():
        steps.stage.measured(case, partial(without, steps, case, ways, repeat))
    for model in (ours, steps.student):
        model.zero_grad(set_to_none=True)


def compile_towers(steps: Steps) -> None:
    """Compile as training does, the teacher first; add the seconds of each first call, and the teacher's gain."""
    steps.ours["compiled"] = module = steps.module(steps.stage.backend)
    on = steps.load()

    @steps.autocast
    @torch.no_grad()
    def teach(model: DualEncoder) -> None:
        model(on["teacher_image"], on["teacher_tokens"])

    @steps.autocast
    def learn() -> None:
        image, text = module.student(on["student_image"], on["student_tokens"])
        (image.sum() + text.sum()).backward()

    def first(role: str, run: Callable[[], None]) -> None:
        row = Row(STEP, f"compilation of the {role}", "s", [seconds_of(run)], better="lower")
        steps.stage.add(row)

    first("teacher", partial(teach, module.teacher))
    ways = {"compiled": partial(teach, module.teacher), "eager": partial(teach, steps.teacher)}
    without(steps, "compiled teacher (whole)", ways)
    first("student", learn)
    module.student.zero_grad(set_to_none=True)


def run(stage: Stage) -> None:
    """Measure what needs no compilation first: compilation may take all of the time that is left."""
    stage.measured("matrix products and copies", partial(peaks, stage))
    steps = Steps(stage)
    stage.measured("eager", partial(compare, steps, "eager"))
    parts = {"authors": "authors' way, eager", "eager": "ours, eager", "compiled": "ours, compiled"}

    def by_part(kind: str) -> None:
        stage.measured(f"ms by part: {parts[kind]}", partial(in_parts, steps, parts[kind], kind))

    by_part("authors")
    by_part("eager")
    stage.measured("each optimisation switched off", partial(switched_off, steps))
    if stage.measured("compilation", partial(compile_towers, steps)):
        stage.measured("compiled", partial(compare, steps, "compiled"))
        by_part("compiled")
