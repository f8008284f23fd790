"""The module under a real Trainer: teacher discipline, checkpoints, exact resumption."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from callbacks import OffDiagonalSchedule, StepSeed, StopOnNonFiniteLoss
from lightning_modules import DistillationModule
from losses import CLIPLoss, FeatureKDLoss, SRKDLoss
from metrics import names
from models import OpenCLIPEncoder, QuantisedStudent, TimmEncoder
from tests.models.text.test_end_token import encoder as causal_text_tower


@pytest.fixture
def module(tiny_encoder):
    return lambda **kwargs: DistillationModule(
        tiny_encoder(seed=1, dropout=0.3),
        tiny_encoder(embed_dim=12, seed=2),
        **{"loss": SRKDLoss(), "learning_rate": 1e-2, "warmup_steps": 2, **kwargs},
    )


def trainer(tmp_path, epochs=2, **kwargs):
    settings = {
        "default_root_dir": tmp_path, "max_epochs": epochs, "accelerator": "cpu", "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False, "gradient_clip_val": 1.0,
        "callbacks": [OffDiagonalSchedule(), StepSeed(0), ModelCheckpoint(tmp_path, save_last=True)],
    }  # fmt: skip
    return Trainer(**settings | kwargs)


def test_the_teacher_never_moves(module, pairs, tmp_path):
    built = module()
    before = {name: value.clone() for name, value in built.teacher.state_dict().items()}
    trainer(tmp_path).fit(built, pairs)
    assert all(torch.equal(before[name], value) for name, value in built.teacher.state_dict().items())


def test_the_teacher_stays_in_eval_mode_without_gradients(module):
    built = module()
    built.train()
    assert not any(part.training for part in built.teacher.modules())
    assert not any(parameter.requires_grad for parameter in built.teacher.parameters())
    assert built.student.training


def test_checkpoints_hold_no_teacher_and_say_how_to_rebuild_the_student(module, pairs, tmp_path):
    trainer(tmp_path, epochs=1).fit(module(), pairs)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [name for name in saved["state_dict"] if name.startswith("teacher")]
    assert [name for name in saved["state_dict"] if name.startswith("student.")]
    assert saved["student"]["preprocessing"]["image_size"] == 4
    assert saved["student"]["recipe"]["init_args"] == {"embed_dim": 8}


def test_a_checkpoint_of_another_student_is_refused_in_one_line(module, pairs, tmp_path):
    trainer(tmp_path, epochs=1).fit(module(), pairs)
    path = tmp_path / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["state_dict"]["student.text.weight"]
    saved["student"]["recipe"]["init_args"]["trunk"] = "resnet10t"
    torch.save(saved, path)
    message = r"\(student resnet10t\) does not fit .*TinyEncoder\): 1 missing: student\.text\.weight$"
    with pytest.raises(ValueError, match=message) as caught:
        trainer(tmp_path, epochs=2).fit(module(), pairs, ckpt_path=path, weights_only=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_program_is_refused_in_one_line(module, pairs, tmp_path):
    trainer(tmp_path, epochs=1).fit(module(), pairs)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del saved["student"]
    torch.save(saved, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"^[^\n]*not written by this project; [^\n]*--student=FILE$"):
        trainer(tmp_path, epochs=2).fit(module(), pairs, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_a_compiled_step_is_the_same_step_with_the_same_weights(module, pairs, tmp_path):
    from torch._dynamo.utils import counters

    plain, compiled = module().eval(), module(compile="eager").eval()
    batch = next(iter(pairs))
    counters.clear()
    expected, found = plain.compute_loss(batch), compiled.compute_loss(batch)
    assert counters["stats"]["unique_graphs"] >= 2  # one of the student, one of the teacher, at least
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    gradients = [
        torch.autograd.grad(terms["total"], list(model.student.parameters()))
        for terms, model in ((found, compiled), (expected, plain))
    ]
    for gradient, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    trainer(tmp_path, epochs=1).fit(compiled, pairs)
    resumed = module()
    trainer(tmp_path, epochs=2).fit(resumed, pairs, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_compiled_towers_have_fixed_sizes_and_held_out_pairs_pass_them_uncompiled(monkeypatch):
    """Student and teacher share their forward method; their sizes are no reason to compile one for any size."""
    from torch._dynamo import register_backend

    seen = []

    @register_backend(name="recording")
    def recording(graph, inputs):
        seen.extend(size for x in inputs for size in (x.shape if isinstance(x, torch.Tensor) else [x]))
        return graph.forward

    student = causal_text_tower()
    teacher = OpenCLIPEncoder("small", image_size=48, configuration=student.configuration).double()
    module = DistillationModule(student, teacher, SRKDLoss(), compile="recording")
    batch = {}
    for role, model in (("student", student), ("teacher", teacher)):
        side = model.preprocessing.image_size
        batch[f"{role}_image"] = torch.zeros(2, 3, side, side, dtype=torch.float64)
        batch[f"{role}_tokens"] = model.tokenize(["brain", "femur"])
    module.compute_loss(batch)
    assert seen
    assert not [size for size in seen if isinstance(size, torch.SymInt)]
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    seen.clear()
    module.eval().validation_step(batch, 0)
    assert not seen


def test_towers_are_not_compiled_unless_asked(module, pairs):
    from torch._dynamo.utils import counters

    counters.clear()
    module().compute_loss(next(iter(pairs)))
    assert not counters["stats"]["unique_graphs"]


def test_every_term_is_logged_by_name(module, pairs, tmp_path):
    run = trainer(tmp_path, epochs=1)
    run.fit(module(), pairs)
    logged = set(run.callback_metrics)
    assert {f"train/loss/{term}" for term in ("total", "contrastive", "diagonal", "off_diagonal")} <= logged
    assert {"train/logit_scale", "train/teacher_logit_scale"} <= logged


def test_the_weight_and_its_sign_are_logged_at_every_step(module, pairs, tmp_path):
    """From 1 to -1 in six steps: 1, 2/3, 1/3, 0, -1/3, -2/3; a loss without a weight logs neither."""
    logger = CSVLogger(tmp_path, name="", version="")
    schedule = OffDiagonalSchedule(start=1.0, end_ratio=-1.0)
    run = trainer(tmp_path, callbacks=[schedule], logger=logger, log_every_n_steps=1)
    run.fit(module(), pairs)
    steps = pd.read_csv(tmp_path / "metrics.csv").dropna(subset="train/off_diagonal_phase")
    weights = np.linspace(1, -1, 7)[:6]
    assert steps["train/off_diagonal_weight"].tolist() == pytest.approx(weights.tolist())
    assert steps["train/off_diagonal_phase"].tolist() == [1, 1, 1, 0, -1, -1]
    run = trainer(tmp_path, epochs=1, callbacks=[])
    run.fit(module(loss=CLIPLoss()), pairs)
    assert not {name for name in run.callback_metrics if "off_diagonal" in name}


def test_a_loss_without_teacher_runs_no_teacher(module, pairs):
    built = module(loss=CLIPLoss())
    built.teacher.forward = lambda *_: pytest.fail("the teacher was run")
    assert set(built.compute_loss(next(iter(pairs)))) >= {"total"}


def test_a_loss_that_needs_a_teacher_refuses_to_run_without(tiny_encoder):
    with pytest.raises(ValueError, match=r"model.teacher: SRKDLoss needs a teacher"):
        DistillationModule(tiny_encoder(), loss=SRKDLoss())


def test_int8_rounding_is_not_trained_in_chunks():
    class Rounded(QuantisedStudent):
        def __init__(self):
            torch.nn.Module.__init__(self)

    with pytest.raises(ValueError, match=r"^model\.grad_cache_chunk: .*gradients would be wrong; remove it$"):
        DistillationModule(Rounded(), grad_cache_chunk=2)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "max_logit_scale"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1])
def test_a_setting_that_is_not_finite_or_negative_is_refused(tiny_encoder, name, value):
    with pytest.raises(ValueError, match=rf"model\.{name} must be at least [01] and finite, not {value}"):
        DistillationModule(tiny_encoder(), **{name: value})


class OwnLoss(nn.Module):
    """A user's loss that returns what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, student, teacher):
        return self.answer(student.image.square().sum())


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x,
        lambda x: {"mine": x},
        lambda x: {"total": x.detach()},
        lambda x: {"total": x, "mine": 1.0},
        lambda x: {"total": x, "mine": x.expand(2)},
    ],
    ids=["a tensor", "no total", "nothing to differentiate", "a number", "no scalar"],
)
def test_a_loss_that_returns_no_terms_is_named_in_one_line(module, pairs, tmp_path, answer):
    own = module(loss=OwnLoss(answer))
    with pytest.raises(
        ValueError, match=r"^model\.loss: OwnLoss must return a dictionary of scalar tensors[^\n]*$"
    ):
        trainer(tmp_path, epochs=1, callbacks=[]).fit(own, pairs)


def test_a_loss_of_another_signature_is_named_before_training(tiny_encoder):
    class Other(nn.Module):
        def forward(self, logits): ...

    with pytest.raises(
        ValueError, match=r"^model\.loss: Other\.forward must take \(student, teacher\): [^\n]*$"
    ):
        DistillationModule(tiny_encoder(), loss=Other())


def test_projection_heads_are_built_and_trained(module, pairs, tmp_path):
    built = module(loss=FeatureKDLoss())
    heads = list(built.loss.parameters())
    assert heads
    before = [parameter.detach().clone() for parameter in heads]
    trainer(tmp_path, epochs=1, callbacks=[]).fit(built, pairs)
    assert all(not torch.equal(old, new) for old, new in zip(before, heads, strict=True))


def test_a_scale_above_the_limit_is_brought_down_to_it(module, pairs, tmp_path):
    built = module(max_logit_scale=2.0, learning_rate=1e-9)
    trainer(tmp_path, epochs=1).fit(built, pairs)
    assert float(built.student.logit_scale.detach()) == pytest.approx(2.0)


def test_a_scale_below_one_is_brought_up_to_it(module, pairs, tmp_path):
    built = module(learning_rate=1e-9)
    with torch.no_grad():
        built.student.log_logit_scale.fill_(-1.0)
    trainer(tmp_path, epochs=1).fit(built, pairs)
    assert float(built.student.logit_scale.detach()) == pytest.approx(1.0)


def test_a_nan_loss_stops_with_step_terms_and_checkpoints(module, pairs, tmp_path):
    built = module()
    run = trainer(tmp_path, callbacks=[StopOnNonFiniteLoss()])
    with torch.no_grad():
        built.student.text.weight.fill_(float("nan"))
    with pytest.raises(
        ValueError, match=r"not finite at step 0 \(.*contrastive=nan.*kept checkpoints: none yet"
    ):
        run.fit(built, pairs)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
def test_gradients_are_clipped_in_every_precision(module, pairs, tmp_path, precision, chunk):
    built, most = module(grad_cache_chunk=chunk), 1e-3
    trainer(tmp_path, epochs=1, precision=precision, max_steps=1, gradient_clip_val=most).fit(built, pairs)
    kept = [parameter.grad for parameter in built.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in kept]).norm()
    # Clipping adds 1e-6 to the norm that it divides by.
    assert float(norm) == pytest.approx(most, rel=1e-3)


@pytest.mark.parametrize(("precision", "fused"), [("16-mixed", None), ("32-true", True)])
def test_the_optimiser_is_fused_where_gradients_can_be_clipped(module, precision, fused):
    built = module()
    built.trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    assert built.configure_optimizers()["optimizer"].defaults["fused"] is fused


def test_the_optimiser_and_its_schedule_are_the_papers_unless_set(tiny_encoder):
    def built(**settings):
        module = DistillationModule(tiny_encoder(), **settings)
        module.trainer = SimpleNamespace(precision="32-true", estimated_stepping_batches=2000)
        made = module.configure_optimizers()
        assert made["lr_scheduler"]["interval"] == "step"
        curve = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
        group = made["optimizer"].param_groups[0]
        numbers = [group[name] for name in ("initial_lr", "betas", "eps", "weight_decay")]
        return [*numbers, module.max_logit_scale], [curve(step) for step in (99, 499, 1250, 2000)]

    numbers, factors = built()
    assert numbers == [1e-5, (0.9, 0.98), 1e-6, 0.1, 100]
    assert factors == pytest.approx([0.2, 1, 0.5, 0], abs=1e-9)
    others = {"betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.3, "max_logit_scale": 50}
    numbers, factors = built(learning_rate=0.2, warmup_steps=100, **others)
    assert numbers == [0.2, *others.values()]
    assert factors[0] == 1


def test_schedules_need_an_end_of_the_training(module):
    built = module()
    built.trainer = SimpleNamespace(precision="32-true", estimated_stepping_batches=float("inf"))
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        built.configure_optimizers()


def test_either_models_logit_scale_is_logged_as_its_own(module, pairs):
    built, logged = module(), {}
    built.teacher.scale.fill_(3.0)
    built.log_dict, built.log = lambda terms, **_: logged.update(terms), lambda *_, **__: None
    built.training_step(next(iter(pairs)), 0)
    scales = [float(logged[name]) for name in (names.LOGIT_SCALE, names.TEACHER_LOGIT_SCALE)]
    assert scales == pytest.approx([float(np.exp(2)), float(np.exp(3))])


def test_losses_of_held_out_patients_carry_the_name_of_their_split(module, pairs):
    built, logged = module().eval(), []
    built.log_dict = lambda terms, **_: logged.append({name.partition("/")[0] for name in terms})
    with torch.no_grad():
        built.validation_step(next(iter(pairs)), 0)
        built.test_step(next(iter(pairs)), 0)
    assert logged == [{"val"}, {"test"}]


def test_accumulation_says_once_that_negatives_are_not_enlarged(module, pairs, tmp_path, recwarn):
    def said():
        lines = [str(warning.message) for warning in recwarn if "within one batch" in str(warning.message)]
        recwarn.clear()
        return lines

    trainer(tmp_path, epochs=2, accumulate_grad_batches=2).fit(module(), pairs)
    (line,) = said()
    assert line.startswith("accumulate_grad_batches=2: ")
    trainer(tmp_path, epochs=1).fit(module(), pairs)
    assert not said()


@pytest.mark.parametrize(
    ("towers", "embeddings"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_the_loss_computes_in_the_towers_precision_but_never_below_float32(module, pairs, towers, embeddings):
    built = module().to(towers)
    batch = {
        name: value.to(towers) if value.is_floating_point() else value
        for name, value in next(iter(pairs)).items()
    }
    made = built.embeddings(batch, "student")
    assert made.image.dtype == made.text.dtype == embeddings
    assert all(
        value.dtype == embeddings for name, value in built.compute_loss(batch).items() if "rate" not in name
    )


def test_columns_that_no_tower_computes_stay_off_the_gpu(monkeypatch):
    student, teacher = causal_text_tower(no_causal_mask=True), causal_text_tower()
    tokens = student.tokenize(["brain", "a fetal brain"])
    batch = {"student_tokens": tokens, "teacher_tokens": tokens}
    monkeypatch.setattr("lightning_modules.distillation.COLUMNS", 4)
    monkeypatch.setattr(DistillationModule, "device", torch.device("cuda"))
    sent = DistillationModule(student, teacher, SRKDLoss()).on_before_batch_transfer(dict(batch), 0)
    assert torch.equal(sent["teacher_tokens"], tokens[:, :8]), (
        "5 columns are used; lengths are multiples of 4"
    )
    assert torch.equal(sent["student_tokens"], tokens), "its padding is visible"
    torch.testing.assert_close(teacher.encode_text(sent["teacher_tokens"]), teacher.encode_text(tokens))


@pytest.mark.parametrize("library", ["open_clip", "timm"])
def test_a_compiled_causal_tower_takes_cut_tokens(library):
    if library == "open_clip":
        model = causal_text_tower()
    else:
        model = TimmEncoder("resnet10t", text_width=16, text_layers=2, text_heads=2, causal=True)
    tokens = model.tokenize(["brain", "a fetal brain"])
    expected = model.encode_text(tokens)
    compiled = torch.compile(model.encode_text, backend="eager", fullgraph=True)
    for length in (8, tokens.shape[1]):
        assert model.columns_of(tokens) < length <= tokens.shape[1]
        torch.testing.assert_close(compiled(tokens[:, :length]), expected)
