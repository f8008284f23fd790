"""Teachers in half precision, and training from stored embeddings."""

import copy

import pytest
import torch

from models import freeze
from models.evaluation_mode import evaluation_mode
from tests.callbacks.test_teacher_cache import LiveOnTwoDraws, cache_in
from tests.callbacks.test_teacher_cache import fit as fit_hc18
from tests.gpu.conftest import fit, pairs_of, to_device

pytestmark = pytest.mark.gpu

# Smallest cosine of an embedding with its float32 form, and largest relative change of the loss: unit roundoffs of
# 2^-8 and 2^-11 over some ten layers.
HALVES = {torch.bfloat16: ("bf16-mixed", 0.999, 0.05), torch.float16: ("16-mixed", 0.99999, 0.01)}


@pytest.mark.parametrize("half", HALVES)
def test_a_teacher_of_half_the_size_teaches_the_same(build, teacher, device, tmp_path, half):
    precision, cosine, change = HALVES[half]
    halved = freeze(copy.deepcopy(teacher)).to(half)
    modules = build(), build(teacher=halved)
    assert {p.dtype for p in modules[1].teacher.parameters()} == {half}
    batch = to_device(pairs_of(modules[0].student, teacher), device)
    embedded = []
    for module in modules:
        module.to(device)
        with torch.no_grad(), torch.autocast(device, half, enabled=module is modules[1]):
            embedded.append(module.embeddings(batch, "teacher"))
    for name in ("image", "text"):
        one, other = getattr(embedded[0], name), getattr(embedded[1], name).float()
        assert (one * other).sum(dim=1).min() > cosine
    for module in modules:
        module.cpu()
    losses = [fit(module, device, tmp_path, precision=precision) for module in modules]
    assert losses[1] == pytest.approx(losses[0], rel=change)
    assert all(p.grad is None and p.dtype == half for p in modules[1].teacher.parameters())


@pytest.mark.parametrize("half", HALVES)
def test_a_half_precision_teacher_is_evaluated_in_full_precision(teacher, device, half):
    halved = freeze(teacher).to(half).to(device)
    batch = to_device(pairs_of(halved, halved), device)
    widened = copy.deepcopy(halved).float()
    with evaluation_mode(halved) as used:
        found = used(batch["teacher_image"], batch["teacher_tokens"])
    with torch.no_grad():
        expected = widened(batch["teacher_image"], batch["teacher_tokens"])
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-6)  # the same float32 computation
    assert {p.dtype for p in halved.parameters()} == {half}


# Stored float32 numbers are those of batches of another size, whose products are rounded differently; in bfloat16 by
# 2^-9 of a number below 1, times a logit scale of 7.
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 3e-2)])
def test_a_teacher_cache_gives_the_losses_of_a_live_teacher(
    device, tiny_hc18, tmp_path, precision, tolerance
):
    options = {"precision": precision, "accelerator": device, "epochs": 3}
    live, _ = fit_hc18(tiny_hc18, tmp_path, data=LiveOnTwoDraws, **options)
    kept, module = fit_hc18(tiny_hc18, tmp_path, cache_in(tmp_path), **options)
    asked = module.teacher.images_seen
    again, module = fit_hc18(tiny_hc18, tmp_path, cache_in(tmp_path), **options)
    assert len(kept) >= 9
    assert kept == pytest.approx(live, abs=tolerance, rel=0)
    assert again == pytest.approx(kept, abs=1e-3, rel=0)  # atomic additions of a GPU's backward pass
    assert module.teacher.images_seen == 8 < asked, "the second run reads all but the eight that it checks"
