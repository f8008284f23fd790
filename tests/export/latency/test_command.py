"""`make latency`: mistakes that it rejects before it times anything, the baseline, and the order of writing."""

import json
import shlex

import pytest

from experiments.commands import latency
from experiments.commands.latency import parse, read_baseline, write_report
from experiments.plain_errors import UsageError
from tests.conftest import make


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--bugets=x", "--bugets: no such option; did you mean --budgets?"),
        ("--qqq", "--qqq: no such option; --help lists the options"),
    ],
)
def test_a_misspelt_option_is_one_line(given, answer):
    with pytest.raises(UsageError) as refused:
        parse([given])
    assert refused.value.message == answer


def test_make_times_a_checkpoint_or_an_export_but_not_one_for_the_other():
    assert shlex.split(make("-n", "latency", "CKPT=a").stdout)[-2:] == ["latency", "a"]
    assert shlex.split(make("-n", "latency", "EXPORT=b").stdout)[-2:] == ["latency", "b"]
    both = make("-n", "latency", "CKPT=a", "EXPORT=b")
    assert both.returncode != 0
    assert "CKPT=... or EXPORT=..., not both" in both.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"backends": [1]}', '{"backends": {"a": {"ratio": 2.0}}}'])
def test_a_baseline_of_another_format_is_a_note(tmp_path, capsys, text):
    path = tmp_path / "latency.json"
    path.write_text(text)
    assert read_baseline(str(path)) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"latency: --baseline {path}: nothing is compared: ")


def test_broken_backends_of_a_baseline_are_left_out(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"backends": {"a": {"error": "x"}, "b": {"ratio": {"median": 2.0}}}}))
    assert read_baseline(str(path)) == {"b": 2.0}


def test_the_figures_are_written_before_the_report(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("a report with a fault")

    monkeypatch.setattr(latency, "markdown", broken)
    with pytest.raises(KeyError):
        write_report({"took": "minutes"}, tmp_path / "out", None)
    assert json.loads((tmp_path / "out" / "latency.json").read_text()) == {"took": "minutes"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["latency.json"]


def test_a_report_that_cannot_be_written_is_found_before_the_timing(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "open_subject", lambda *_: pytest.fail("the timing began"))
    path = tmp_path / "latency.md"
    path.write_text("of an earlier run")
    with pytest.raises(ValueError, match=rf"^--out={path}: not a folder [^\n]*$"):
        latency.main([f"--out={path}"])
