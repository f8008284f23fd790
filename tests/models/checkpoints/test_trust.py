"""Classes of other packages are imported for a file only with --trust."""

import sys

import pytest

from experiments.commands.inspect import main as models_command
from models import from_checkpoint
from models.checkpoints import trust
from models.checkpoints.trust import apply_trust, check_classes, resolve
from tests.canary import foreign_checkpoint as foreign


@pytest.mark.parametrize("nested", [False, True])
def test_an_untrusted_class_is_rejected_before_its_module_is_imported(canary, tmp_path, nested):
    path = foreign(tmp_path / "best.ckpt", nested)
    with pytest.raises(ValueError, match=r"best\.ckpt: canary\.Encoder is not a class .*--trust[^\n]*$"):
        from_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("word", ["--trust", "--trust=true"])
def test_a_trusted_class_is_built(canary, tmp_path, word):
    apply_trust(["x.ckpt", word])
    assert type(from_checkpoint(foreign(tmp_path / "best.ckpt"))).__module__ == "canary"
    assert canary.exists()


def test_nothing_untrusted_is_imported_by_its_path_either(canary):
    with pytest.raises(ValueError, match=r"^best\.ckpt: canary\.Encoder is not a class .*--trust"):
        resolve("canary.Encoder", "best.ckpt")
    assert not canary.exists()


def test_the_parser_may_import_loaded_packages_of_the_project_alone(monkeypatch):
    given = []
    monkeypatch.setattr(trust, "set_parsing_settings", lambda **settings: given.append(settings))
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "callbacks", sys)
    monkeypatch.delitem(sys.modules, "losses", raising=False)
    apply_trust(["x.ckpt"], closed=False)
    assert given == []
    apply_trust(["x.ckpt"])
    ((denied, allowed),) = [(one["import_path_denylist"], set(one["import_path_allowlist"])) for one in given]
    assert denied == ["*"]
    assert {"models", "callbacks"} <= allowed <= set(trust.ALLOWED) - {"losses"}
    monkeypatch.setenv(trust.VARIABLE, "1")
    apply_trust(["x.ckpt"])
    assert len(given) == 1


def test_inspect_imports_nothing_trusted_or_not(canary, tmp_path, capsys):
    apply_trust(["--trust"])
    models_command([foreign(tmp_path / "best.ckpt")])
    assert "layout:" in capsys.readouterr().out
    assert not canary.exists()


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "builtins.eval",
        "eval",
        "models_evil.Encoder",
        "model.s",
        "torch.hub.load",
        ".models.X",
        "",
        None,
        3,
    ],
)
def test_only_listed_packages_count_at_any_depth(class_path):
    for content in (
        {"class_path": class_path},
        {"init_args": {"a": [{"b": {"class_path": class_path}}]}},
        {"class_path": "models.TimmEncoder", "init_args": {"trunk": {"class_path": class_path}}},
        [{"callbacks": ({"class_path": class_path},)}],
    ):
        with pytest.raises(ValueError, match=r"^config\.yaml: .*--trust"):
            check_classes(content, "config.yaml")


def test_a_listed_package_that_is_not_loaded_could_be_a_folder_of_its_name(monkeypatch):
    content = {"class_path": "losses.SRKDLoss"}
    monkeypatch.setitem(sys.modules, "losses", sys)
    check_classes(content, "config.yaml")
    monkeypatch.delitem(sys.modules, "losses")
    with pytest.raises(ValueError, match=r"losses\.SRKDLoss"):
        check_classes(content, "config.yaml")
