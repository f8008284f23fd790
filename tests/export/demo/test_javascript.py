"""The page's arithmetic against Pillow and against the Python that reads an export."""

import csv
import io
import json
import shutil
import subprocess
from random import Random

import numpy as np
import pytest
from ftfy import fix_text
from tokenizers import Tokenizer

from export.graphs.text_artifact import GOLDEN_TEXTS, tokenizer_files
from metrics.calibration import max_minus_mean_logit, profile_age_days, profile_interval
from metrics.growth_chart import COEFFICIENTS, head_circumference_mm
from models.preprocessing import Preprocessing
from models.text.tokenizer import build_tokenizer

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def node(modules, script, given):
    """Run a module that gets `given` and prints JSON."""
    (modules / "given.json").write_text(json.dumps(given))
    head = 'import { readFileSync } from "fs";\nconst given = JSON.parse(readFileSync("given.json"));\n'
    (modules / "run.js").write_text(head + script)
    done = subprocess.run(
        ["node", "run.js"], cwd=modules, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_classes_and_none_of_these(modules):
    random = np.random.default_rng(6)
    vectors, embeddings = random.normal(size=(4, 8)), random.normal(size=(20, 8))
    logits = 3 * embeddings @ vectors.T
    threshold = float(np.median(max_minus_mean_logit(logits)))
    given = {"vectors": vectors.ravel().tolist(), "embeddings": embeddings.tolist(), "threshold": threshold}
    script = """import { classify } from "./answers.js";
    const head = { labels: ["a", "b", "c", "d"], shape: [4, 8], cosine_scale: 3, row: () => given.vectors };
    console.log(JSON.stringify(given.embeddings.map((one) =>
      [classify(one, head, given.threshold), classify(one, head, undefined)])));"""
    for (bounded, free), own in zip(node(modules, script, given), logits, strict=True):
        best = "abcd"[int(own.argmax())]
        probabilities = np.exp(own - own.max()) / np.exp(own - own.max()).sum()
        assert bounded["probabilities"] == pytest.approx(probabilities.tolist())
        assert free["answer"] == best
        assert bounded["answer"] == (best if max_minus_mean_logit(own[None])[0] >= threshold else "none")


TEXTS = [
    *GOLDEN_TEXTS,
    " It's  a BPD/HC of 21.5mm \u2014 don\u2019t \n Gr\u00f6\u00dfe",
    "plane " * 60,
    "x" * 130,
    "\t\u0085\ufeff\u00a0a\u2003b",
    "constructor __proto__ toString",
    "<pad> $& $1 {label}",
    "24 weeks, 0.21 and 100.5678901234",
    "\u00c9\u0301\u0130 \ufb01 \u2462 \u1e9b\u0323 \u03a3\u03bf",
    "\u8d85\u97f3\u6ce2 \U0001f476\U0001f3fd \u0645\u0631\u062d \u0939\u093f",
    "\ud800 lone \udc00",
]
"""Texts of every kind that a visitor may type: none, numbers, names of JavaScript's own, scripts, lone surrogates."""


def random_texts(number):
    """Return texts of characters that were drawn from several blocks of Unicode."""
    draw = Random(9)
    blocks = [
        (32, 127),
        (32, 127),
        (160, 592),
        (0x300, 0x530),
        (0x2000, 0x2070),
        (0x4E00, 0x4F00),
        (0x1F300, 0x1F600),
    ]
    return [
        "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randrange(60)))
        for _ in range(number)
    ]


@pytest.mark.parametrize("name", ["fetal", "clip"])
def test_tokens_of_texts(modules, tmp_path, name):
    contract = Preprocessing(64, (0.0,) * 3, (1.0,) * 3, tokenizer=name, context_length=40)
    tokenizer_files(contract, tmp_path)
    texts = [*TEXTS, *random_texts(300)]
    script = """import { readTokenizer } from "./tokenizer.js";
    const encode = readTokenizer(JSON.parse(readFileSync(given.file)));
    console.log(JSON.stringify(given.texts.map(encode)));"""
    given = {"file": str(tmp_path / "tokenizer.json"), "texts": texts}
    found = node(modules, script, given)
    wanted, shipped = build_tokenizer(contract)(texts).tolist(), Tokenizer.from_file(given["file"])
    for text, one, ids in zip(texts, found, wanted, strict=True):
        readable = text.encode("utf-8", "replace").decode()
        # open_clip repairs what looks wrongly decoded, such as ligatures; the shipped file does not.
        repaired = name == "clip" and fix_text(text) != text
        assert one["ids"] == (shipped.encode(readable).ids if repaired else ids), ascii(text)
        shipped.no_truncation()
        assert one["cut"] == (len(shipped.encode(readable).ids) > 40)
        shipped.enable_truncation(40)
    assert sum(one["ids"] == ids for one, ids in zip(found, wanted, strict=True)) > len(texts) // 4


def test_words_that_are_spelled_in_letters_are_named(modules, tmp_path):
    contract = Preprocessing(64, (0.0,) * 3, (1.0,) * 3, tokenizer="fetal", context_length=40)
    tokenizer_files(contract, tmp_path)
    script = """import { readTokenizer } from "./tokenizer.js";
    console.log(JSON.stringify(readTokenizer(JSON.parse(readFileSync(given.file)))(given.text).spelled));"""
    given = {"file": str(tmp_path / "tokenizer.json"), "text": "Fetal brain of a xylophone, 24.35 mm"}
    assert node(modules, script, given) == ["xylophone"]


def test_an_unknown_part_of_a_tokenizer_is_refused(modules):
    script = """import { readTokenizer } from "./tokenizer.js";
    let said = null;
    try {
      readTokenizer(given);
    } catch (error) {
      said = error.message;
    }
    console.log(JSON.stringify(said));"""
    given = {"model": {"type": "Unigram", "vocab": []}, "normalizer": {"type": "Precompiled"}}
    given |= {"truncation": {"max_length": 8}, "post_processor": {"single": []}}
    assert (
        node(modules, script, given) == "this student's tokenizer is not supported in the page (Precompiled)"
    )


def test_ages_and_intervals(modules):
    random = np.random.default_rng(7)
    days = np.arange(98, 273)
    peaks = random.uniform(98, 272, 30)
    profiles = -0.01 * np.abs(days - peaks[:, None]) + random.normal(0, 0.05, (30, 175))
    profiles[0] = np.round(profiles[0], 1)  # equal similarities: the first ages count
    # One peak above all, of fewer than eight ages: the age lies outside of its interval.
    profiles[1] = np.where(days < 105, 2, -0.01 * np.abs(days - 200))
    profiles[2] = profiles[1, ::-1]
    script = """import { estimateAge } from "./reader.mjs";
    console.log(JSON.stringify(given.map((profile) => {
      const row = { firstDay: 98, profile };
      return [estimateAge(row, 0.2), estimateAge(row)];
    })));"""
    ages = profile_age_days(profiles, days)
    low, high = profile_interval(profiles, days, 0.2)
    for place, (bounded, free) in enumerate(node(modules, script, profiles.tolist())):
        assert bounded["days"] == free["days"] == ages[place]
        assert bounded["low"] == min(low[place], ages[place])
        assert bounded["high"] == max(high[place], ages[place])
        assert (free["low"], free["high"]) == (None, None)
    assert ages[1] > high[1]
    assert ages[2] < low[2]


def test_the_growth_chart(modules):
    script = """import { headCircumference } from "./answers.js";
    console.log(JSON.stringify(given.map((row) => [14, 27.5, 40].map((week) => headCircumference(row, week)))));"""
    found = node(modules, script, list(COEFFICIENTS.values()))
    wanted = [head_circumference_mm([14, 27.5, 40], centile).tolist() for centile in COEFFICIENTS]
    np.testing.assert_allclose(found, wanted)


READINGS = """import { linesOf, table } from "./save.js";
const labels = ["brain", "femur"], probabilities = [0.25, 0.75];
const plane = { title: "Plane", key: "plane", labels, probabilities, best: 1, answer: "femur" };
const none = { ...plane, title: "My own", key: "own", best: 0, rejected: true, answer: "none" };
const age = { days: 195, low: 188, high: 203, coverage: 0.9, spacing: 1.5 };
const facts = { age: null, pixelSize: null, milliseconds: 1.26 };
const reading = { source: "a.png", time: new Date(0), classes: [plane], ...facts };
"""


def test_a_table_has_no_formulas_and_keeps_commas_and_lines(modules):
    names = ["=1+1.png", "+1", "-1", "@a", "\t=1", 'a "b", c', "two\nlines", "a=b"]
    script = "console.log(JSON.stringify(table(given.map((source) => ({ ...reading, source })))));"
    rows = list(csv.DictReader(io.StringIO(node(modules, READINGS + script, names), newline="")))
    assert [row["image"] for row in rows] == [*(f"'{name}" for name in names[:5]), *names[5:]]


def test_a_table_and_the_text_of_a_reading(modules):
    script = """const known = { ...reading, classes: [plane, none], age, pixelSize: 0.2, seconds: "0.500" };
    const free = { ...reading, age: { ...age, low: null } };
    console.log(JSON.stringify([table([reading, known]), linesOf(known), linesOf(free)]));"""
    text, lines, free = node(modules, READINGS + script, None)
    without, row = csv.DictReader(io.StringIO(text, newline=""))
    assert row == {
        "image": "a.png", "time": "1970-01-01T00:00:00.000Z", "seconds": "0.500",
        "plane": "femur", "plane_probability": "0.75", "plane_brain": "0.25", "plane_femur": "0.75",
        "own": "none", "own_probability": "0.25", "own_brain": "0.25", "own_femur": "0.75",
        "ga_days": "195", "ga": "27 w 6 d", "ga_low_days": "188", "ga_high_days": "203", "ga_coverage": "0.9",
        "ga_spacing_mm": "1.5", "pixel_size_mm": "0.2", "latency_ms": "1.3",
    }  # fmt: skip
    assert {name for name, value in without.items() if value} == {
        "image", "time", "plane", "plane_probability", "plane_brain", "plane_femur", "latency_ms",
    }  # fmt: skip
    assert lines == ["Plane: femur (75 %)", "My own: none of these", "Age: 27 w 6 d (26 w 6 d to 29 w 0 d)"]
    assert free == ["Plane: femur (75 %)", "Age: 27 w 6 d"]


def test_no_class_has_the_column_of_something_else(modules):
    script = """const named = (key, ...labels) => ({ ...plane, key, labels });
    const classes = [named("a", "probability", "b"), named("pixel", "size_mm", "b_c"), named("pixel_b", "c", "d")];
    console.log(JSON.stringify(table([reading, { ...reading, pixelSize: 0.2, classes }])));"""
    _, row = csv.DictReader(io.StringIO(node(modules, READINGS + script, None), newline=""))
    assert (row["a_probability"], row["a_probability_class"], row["a_b"]) == ("0.75", "0.25", "0.75")
    assert (row["pixel_size_mm"], row["pixel_size_mm_class"]) == ("0.2", "0.25")
    assert (row["pixel_b"], row["pixel_b_c"], row["pixel_b_c_class"]) == ("femur", "0.75", "0.25")


def test_labels_at_the_limits_and_with_signs_of_a_pattern(modules):
    script = """import { labelsOf } from "./labels.js";
    console.log(JSON.stringify(given.map((typed) => labelsOf(typed, "a {label} and {label}"))));"""
    many, long = [str(number) for number in range(50)], ["a" * 100, "b"]
    found = node(modules, script, ["\n".join(labels) for labels in (many, long, ["$&", "$1"])])
    assert [one["labels"] for one in found] == [many, long, ["$&", "$1"]]
    assert found[2]["prompts"] == ["a $& and $&", "a $1 and $1"]
