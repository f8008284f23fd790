"""A training step is the same on several processes and in chunks (`grad_cache_chunk`) as in one joint batch."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from lightning_modules import DistillationModule
from lightning_modules.grad_cache import in_chunks
from losses import CLIPLoss, SRKDLoss
from tests.lightning_modules.conftest import TinyEncoder
from tests.losses.loss_cases import CASES
from tests.metrics.two_processes import run_in_processes


class Step(torch.nn.Module):
    """A whole training step as one module, so that DDP averages the gradients of every parameter."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch):
        self.module.terms = self.module.compute_loss(batch)
        return self.module.terms["total"]


class Biased(TinyEncoder):
    """Towers with a learned bias of the logits."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bias = torch.nn.Parameter(torch.tensor(-2.0))

    @property
    def logit_bias(self):
        return self.bias


def joint_batch(pairs, ids=(0, 1, 2, 3, 0, 1, 2, 4)):
    """Return 8 float64 pairs, with equal captions on different processes."""
    batch = {
        key: value.double() if value.is_floating_point() else value
        for key, value in next(iter(pairs)).items()
    }
    return batch | {"caption_id": torch.tensor(ids), "class_id": torch.tensor([0, 1, 0, 0, 1, 1, 0, 1])}


def step(name, batch, chunk=None):
    """Return the terms and the gradients of a float64 training step with the loss `name`, as DDP averages them."""
    torch.manual_seed(3)
    case = CASES[name]
    student = (TinyEncoder if case.bias is None else Biased)(seed=1)
    module = DistillationModule(student, TinyEncoder(12, seed=2), case.make(), grad_cache_chunk=chunk)
    whole = Step(module.double().eval())
    model = DistributedDataParallel(whole) if torch.distributed.is_initialized() else whole
    model(batch).backward()
    terms = {key: value.detach() for key, value in module.terms.items()}
    return terms, {key: value.grad for key, value in whole.named_parameters() if value.requires_grad}


def save_steps(rank, world, batch, folder):
    part = {key: value.chunk(world)[rank] for key, value in batch.items()}
    steps = {(name, chunk): step(name, part, chunk) for name in CASES for chunk in (None, 8 // world - 1)}
    torch.save(steps, folder / f"{rank}.pt")


def take_two_steps(rank, world, batch, folder):
    module = DistillationModule(Biased(seed=1), TinyEncoder(12, seed=2), SRKDLoss())
    model = DistributedDataParallel(Step(module.double()))
    for _ in range(2):  # DDP complains in the second step about a parameter that the first one left out
        model({key: value.chunk(world)[rank] for key, value in batch.items()}).backward()
    torch.save(module.student.bias.grad, folder / f"{rank}.pt")


def test_a_bias_that_the_loss_does_not_read_stops_no_process(pairs, tmp_path):
    run_in_processes(2, take_two_steps, tmp_path, 2, joint_batch(pairs), tmp_path)
    assert [float(torch.load(tmp_path / f"{rank}.pt")) for rank in range(2)] == [0, 0]


def assert_same_step(found, expected):
    """To 1e-9 of the largest number of each tensor: float64, in another order of summation."""
    for values, wanted in zip(found, expected, strict=True):
        assert values.keys() == wanted.keys()
        for key, value in wanted.items():
            limit = 1e-9 * float(value.abs().max().clamp(min=1e-3))
            assert_close(values[key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}")


def test_a_step_on_several_processes_is_the_step_of_the_joint_batch(pairs, tmp_path):
    """For every loss, with the batch at once and in chunks."""
    batch = joint_batch(pairs)
    run_in_processes(2, save_steps, tmp_path, 2, batch, tmp_path)
    for rank in range(2):
        for (name, _), found in torch.load(tmp_path / f"{rank}.pt").items():
            assert_same_step(found, step(name, batch))


def test_equal_captions_on_other_processes_are_masked(pairs):
    """What the test above compares depends on them."""
    batch = joint_batch(pairs)
    apart = joint_batch(pairs, range(8))
    for name in ("srkd-duplicates", "coupled-duplicates", "clip-multi-positive"):
        assert abs(step(name, batch)[0]["total"] - step(name, apart)[0]["total"]) > 1e-3, name


def test_chunks_have_the_gradients_of_the_joint_batch(pairs):
    for name in CASES:
        expected = step(name, joint_batch(pairs))
        for chunk in (1, 3) if name != "srkd" else (1, 3, 8, 100):
            assert_same_step(step(name, joint_batch(pairs), chunk), expected)


def test_no_chunk_is_much_smaller_than_the_others():
    seen = []

    def towers(image, tokens):
        seen.append(len(image))
        return image, tokens

    towers.modules = list  # no batch norm
    image, tokens = in_chunks(towers, torch.arange(9.0).reshape(9, 1), torch.arange(9), 4)
    assert seen == [3, 3, 3]
    assert image.flatten().tolist() == tokens.tolist() == list(range(9))


def trained(batch, chunk, precision, dropout=0.0):
    """Return loss and gradients of one step as Lightning computes it: autocast, and a scaled loss for float16."""
    torch.manual_seed(0)
    module = DistillationModule(
        TinyEncoder(seed=1, dropout=dropout), TinyEncoder(12, seed=2), SRKDLoss(), grad_cache_chunk=chunk
    )
    module.student.image[1].eval()
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        total = module.compute_loss(batch)["total"]
    (total * (1024 if precision is torch.float16 else 1)).backward()
    return total.detach(), [parameter.grad for parameter in module.student.parameters()]


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    # Products of other shapes round differently: to a few units of the last place.
    [(None, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)],
)
def test_chunks_in_each_precision(pairs, precision, tolerance):
    batch = next(iter(pairs))
    (loss, gradients), (expected, wanted) = (trained(batch, chunk, precision) for chunk in (3, None))
    assert_close(loss, expected, rtol=tolerance, atol=0)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, rtol=0, atol=tolerance * float(want.abs().max()))


def test_both_passes_draw_the_same_dropout(pairs):
    """The gradient is the derivative of the loss that was computed, along a random direction."""
    batch = joint_batch(pairs)

    def built():
        torch.manual_seed(5)
        return DistillationModule(
            TinyEncoder(seed=1, dropout=0.5), TinyEncoder(12, seed=2), SRKDLoss(), grad_cache_chunk=3
        ).double()

    module = built()
    module.compute_loss(batch)["total"].backward()
    weight = module.student.image[3].weight
    direction = torch.randn(weight.shape, dtype=torch.float64)
    values = []
    for step_size in (1e-5, -1e-5):
        moved = built()
        with torch.no_grad():
            moved.student.image[3].weight.add_(step_size * direction)
        values.append(moved.compute_loss(batch)["total"].detach())
    slope = (values[0] - values[1]) / 2e-5
    assert_close((weight.grad * direction).sum(), slope, rtol=1e-5, atol=0)


def test_running_statistics_see_each_chunk_once(pairs):
    batch = next(iter(pairs))
    module = DistillationModule(TinyEncoder(seed=1), TinyEncoder(12), SRKDLoss(), grad_cache_chunk=4)
    module.compute_loss(batch)["total"].backward()
    alone = TinyEncoder(seed=1)
    for images in batch["student_image"].split(4):
        alone.image_features(images)
    for name, value in alone.image[1].state_dict().items():
        assert torch.equal(module.student.image[1].state_dict()[name], value), name
    assert module.student.image[1].momentum == 0.1


def test_chunks_with_stored_teacher_embeddings(pairs):
    batch = joint_batch(pairs)
    teacher = TinyEncoder(12, seed=2).double().eval()
    with torch.no_grad():
        stored = torch.stack(teacher(batch["teacher_image"], batch["teacher_tokens"]), dim=1)
    cached = {key: value for key, value in batch.items() if not key.startswith("teacher_")}
    assert_same_step(step("srkd", cached | {"teacher_embedding": stored}, 3), step("srkd", batch))


def test_an_empty_chunk_is_refused(tiny_encoder):
    with pytest.raises(ValueError, match=r"^model\.grad_cache_chunk must be at least 1 and finite, not 0$"):
        DistillationModule(tiny_encoder(), loss=CLIPLoss(), grad_cache_chunk=0)
