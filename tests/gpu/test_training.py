"""The training step through Lightning's trainer: precisions, memory layout, compilation, overflow, memory."""

import copy
import math
import shutil
import warnings
from contextlib import contextmanager

import pytest
import torch
from lightning import Callback
from torch import nn

from callbacks import GradientNorms, Throughput
from losses import Embeddings, SRKDLoss
from losses.kernels import tiles
from tests.gpu.conftest import ConvolutionalTowers, Pairs, fit, pairs_of, state_of, to_device, trainer_on

pytestmark = pytest.mark.gpu

# Relative error of the first loss against float64. float32: sums of some hundred numbers. Half precisions: their unit
# roundoff (2^-11, 2^-8) over some twenty layers, times logits near 14.
TOLERANCES = {"32-true": 1e-4, "16-mixed": 2e-2, "bf16-mixed": 0.1}


class Layouts(Callback):
    """Names of the student's convolutions whose feature maps are not channels-last."""

    def __init__(self):
        self.seen, self.others = 0, set()

    def on_fit_start(self, trainer, module):
        for name, part in module.student.named_modules():
            # A CPU keeps some 1 x 1 convolutions contiguous (models/encoders/memory_format.py).
            if isinstance(part, nn.Conv2d) and (module.device.type != "cpu" or part.kernel_size != (1, 1)):
                part.register_forward_hook(lambda _, __, output, name=name: self.look(name, output))

    def look(self, name, output):
        self.seen += 1
        if not output.is_contiguous(memory_format=torch.channels_last):
            self.others.add(name)


def reference_loss(module):
    """The loss of the first batch in float64 on the CPU."""
    twin = copy.deepcopy(module).double().train()
    first = next(iter(Pairs(module).train_dataloader()))
    first = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in first.items()
    }
    return float(twin.compute_loss(first)["total"].detach())


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("trunk", ["resnet", "fastvit"])
def test_a_training_clips_accumulates_and_clamps(build, small_fastvit, device, tmp_path, precision, trunk):
    towers = {"student": small_fastvit} if trunk == "fastvit" else {}
    module, layouts = build(max_logit_scale=5.0, loss=SRKDLoss(off_diagonal_weight=2.0), **towers), Layouts()
    before, frozen = state_of(module), copy.deepcopy(module.teacher.state_dict())
    expected = reference_loss(module)
    losses = fit(
        module, device, tmp_path, [layouts], precision=precision, accumulate_grad_batches=2, max_epochs=3
    )
    assert len(losses) == 6
    assert all(map(math.isfinite, losses))
    assert losses[0] == pytest.approx(expected, rel=TOLERANCES[precision])
    after = state_of(module)
    assert [name for name, value in after.items() if not value.isfinite().all()] == []
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(after), "unused rows aside, every tensor moves"
    assert float(module.student.logit_scale.detach()) <= 5.0 + 1e-5, "clamped; it starts at 14"
    assert all(torch.equal(value.cpu(), frozen[name]) for name, value in module.teacher.state_dict().items())
    assert layouts.seen > 0
    if precision != "32-true":  # where cuDNN chooses freely
        assert layouts.others == set()


class SkippedSteps(Callback):
    """Whether each step left the weights as they were, and the loss scale after it."""

    def __init__(self):
        self.kept, self.scales, self.before = [], [], None

    def on_train_start(self, trainer, module):
        self.before = state_of(module)

    def on_train_batch_end(self, trainer, module, *_):
        now = state_of(module)
        self.kept.append(all(torch.equal(value, self.before[name]) for name, value in now.items()))
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        self.before = now


def test_float16_skips_steps_that_overflow_and_then_trains(build, device, tmp_path):
    # A scale at which gradients exceed 65,504, float16's largest number; each overflow divides it by 256.
    scaler = torch.amp.GradScaler(device, init_scale=2.0**32, backoff_factor=2.0**-8)
    module, steps = build(), SkippedSteps()
    losses = fit(module, device, tmp_path, [steps], precision="16-mixed", scaler=scaler, max_epochs=3)
    assert all(map(math.isfinite, losses))
    assert steps.kept[0], "the overflowed step is skipped"
    assert steps.scales[0] == 2.0**24
    assert not steps.kept[-1], "the scale falls until steps are taken"
    assert all(value.isfinite().all() for value in state_of(module).values())


def test_a_compiled_training_has_the_losses_of_an_eager_one(build, device, tmp_path):
    compilers = ("g++",) if device == "cpu" else ("gcc", "clang", "cc")
    if not any(map(shutil.which, compilers)):
        pytest.skip(
            f"inductor needs a compiler (Debian: apt-get install g++): none of {', '.join(compilers)}"
        )
    towers = {"student": ConvolutionalTowers(1, 16, 8), "teacher": ConvolutionalTowers(2, 24, 12)}
    losses = []
    for compiled in (False, True):
        torch.compiler.reset()
        module = build(**towers, compile=compiled)
        losses.append(fit(module, device, tmp_path))
    # Fused kernels add in another order. AdamW's first steps have the size of the learning rate whatever that of the
    # gradient, so weights whose gradient is rounding noise move apart, by 1e-3 a step.
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_embedding_in_chunks_has_the_same_gradients(build, device):
    """Towers in eval mode: a chunk has other batch statistics than the batch."""
    gradients = []
    for chunk in (None, 4):
        module = build(grad_cache_chunk=chunk).to(device)
        module.student.eval()
        module.compute_loss(to_device(pairs_of(module.student, module.teacher), device))["total"].backward()
        gradients.append({n: p.grad for n, p in module.student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        # float32 sums in another order
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-5, msg=name)


def peak_of(action):
    """Return the most bytes that an action holds beyond those held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, result


def test_chunks_lower_the_peak_memory_of_a_step(build, card):
    peaks = []
    for chunk in (None, 32):
        module = build(grad_cache_chunk=chunk).to(card)
        batch = to_device(pairs_of(module.student, module.teacher, count=256), card)

        def step(module=module, batch=batch):
            module.compute_loss(batch)["total"].backward()
            module.zero_grad(set_to_none=True)

        step()  # allocates workspaces
        peaks.append(peak_of(step)[0])
    assert peaks[1] < peaks[0] / 2, peaks


@pytest.mark.parametrize(("kernel", "matrices"), [("chunked", 1), ("fused", 3)])
def test_peak_memory_of_the_loss(card, kernel, matrices, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 2**21)  # by default all rows of this batch are one block
    B, D = 4096, 512
    rows = [nn.functional.normalize(torch.randn(B, D, device=card), dim=1) for _ in range(4)]
    scale, ids = torch.tensor(20.0, device=card), torch.arange(B, device=card) // 2
    inputs = [rows[0].requires_grad_(), rows[1].requires_grad_(), scale.clone().requires_grad_()]
    student = Embeddings(*inputs, caption_id=ids)
    teacher = Embeddings(rows[2], rows[3], scale)
    loss = SRKDLoss(kernel=kernel)

    def pass_through():
        return torch.autograd.grad(loss(student, teacher)["total"], inputs)

    pass_through()  # allocates workspaces
    peak, gradients = peak_of(pass_through)
    peak -= sum(gradient.numel() * 4 for gradient in gradients)
    assert peak <= matrices * 4 * B * B, f"{peak / (4 * B * B):.2f} matrices of B x B"


@contextmanager
def waits():
    """Yield a list that receives the places at which the CPU waited for the GPU."""
    places = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
            found = [one for one in caught if "called a synchronizing" in str(one.message)]
            places += [f"{one.filename}:{one.lineno}" for one in found]


@pytest.mark.parametrize("kernel", ["fused", "chunked"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_the_step_waits_for_no_result(build, card, kernel, chunk):
    """No copy to the host, and none from pageable memory, in forward pass, loss, backward pass and optimiser."""
    module = build(loss=SRKDLoss(kernel=kernel), grad_cache_chunk=chunk).to(card)
    batch = to_device(pairs_of(module.student, module.teacher), card)
    optimizer = torch.optim.AdamW(module.student.parameters(), lr=1e-4)

    def step():
        with torch.autocast(card, torch.bfloat16):
            total = module.compute_loss(batch)["total"]
        total.backward()
        nn.utils.clip_grad_norm_(module.student.parameters(), 1.0)
        optimizer.step()
        module.student.clamp_logit_scale(100.0)
        optimizer.zero_grad()

    for _ in range(3):
        step()
    with waits() as places:
        torch.ones(2, device=card).sum().item()
    assert places != [], "a wait is noticed"
    with waits() as places:
        step()
    assert places == []


class Watch(Callback):
    """The waits of all batches but the first two, which allocate; its twin at the end of the callbacks closes it."""

    def __init__(self):
        self.found, self.context = [], None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step >= 2:
            self.context = waits()
            self.found.append(self.context.__enter__())


class EndOfWatch(Callback):
    def __init__(self, watch):
        self.watch = watch

    def on_train_batch_end(self, *_):
        if self.watch.context is not None:
            self.watch.context.__exit__(None, None, None)
            self.watch.context = None


def test_the_trainer_and_its_callbacks_wait_for_no_result(build, card, tmp_path):
    """Without the copy of the batch, and between the steps that are logged."""
    module, watch = build(), Watch()
    callbacks = [Throughput(), GradientNorms(), EndOfWatch(watch)]
    trainer = trainer_on(card, tmp_path, "bf16-mixed", callbacks, max_epochs=3, log_every_n_steps=1000)
    trainer.callbacks.insert(0, watch)
    trainer.fit(module, Pairs(module, pinned=True))
    assert len(watch.found) == 4
    assert [place for places in watch.found for place in places] == []


def test_texts_have_the_same_embeddings_whole_and_cut(build, device):
    """A GPU computes all columns that it is given; the rest is cut on the CPU."""
    module = build()
    for model in (module.student.eval(), module.teacher):
        tokens = model.tokenize(["brain", "the femur of a fetus, 20 mm"])
        used = tokens[:, : model.columns_of(tokens)]
        assert used.shape[1] < tokens.shape[1]
        with torch.no_grad():
            one, other = (model.to(device).encode_text(part.to(device)) for part in (tokens, used))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)  # matrix products of other shapes
