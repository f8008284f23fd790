"""LiteRT files: converted, run by the interpreter, measured and timed, where the extra `litert` is installed."""

import json

import numpy as np
import pytest

from export import Options, export_student
from export.graphs.litert_file import litert_installed
from export.latency.backends import backend_specs, load
from export.parity.ledger import NOT_RUN, OK
from export.runners import NO_LITERT, litert_runner
from export.variants import ExportContext, write_litert_variants

OPTIONS = Options(
    skip=["coreml", "onnx-int8", "openvino-int8"], frames=6, spacings=[0.30], only_spacings=True, keep_slow_int8=True
)  # fmt: skip


def test_what_is_made_from_a_skipped_file_says_so(tmp_path):
    context = ExportContext(tmp_path, None, {}, {})
    write_litert_variants(context, ["litert-int8"])
    (row,) = context.not_run
    assert (row.variant, row.status) == ("litert-int8", NOT_RUN)
    assert row.note == "it is made from litert-fp32, which --skip leaves out"


@pytest.mark.slow
@pytest.mark.skipif(not litert_installed(), reason=NO_LITERT)
def test_files_give_the_golden_answers_and_have_rows_and_backends(subject, tmp_path):
    export = export_student(subject, tmp_path / "export", OPTIONS)
    rows = {row["variant"]: row for row in json.loads((export.folder / "parity.json").read_text())["rows"]}
    assert rows["litert-fp32"]["status"] == OK
    assert rows["litert-int8"]["note"].startswith("task metrics not judged: the weights are random")
    assert rows["litert-fp32"]["figures"]["cosine_min"] > 0.99999
    assert 0.9 < rows["litert-int8"]["figures"]["cosine_min"] < 0.99999
    assert "times as fast as float32 in litert" in rows["litert-int8"]["note"]
    entries = export.manifest["artifacts"]
    assert entries["litert-int8"]["bytes"] < 0.6 * entries["litert-fp32"]["bytes"]
    golden = json.loads((export.folder / "golden" / "golden.json").read_text())
    specs, _ = backend_specs(export, threads=1)
    assert specs["litert"]["path"].endswith("image_encoder.tflite")
    assert specs["litert-int8"]["path"].endswith("image_encoder_int8.tflite")
    assert load(specs["litert"])().shape == (1, 32)
    run = litert_runner(export.artifact("litert-fp32"))
    assert run(np.zeros((2, 3, 64, 64), np.float32)).shape == (2, 32), "frames one by one"
    assert set(golden["variants"]) == {"litert-int8"}
