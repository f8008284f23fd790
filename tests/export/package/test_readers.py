"""The readers in an export folder: pixels equal to Pillow's bit by bit, classes and ages of `load_student`.

Ages at many pixel spacings come from a table of their own.
"""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from models import Preprocessing, load_student
from models.preprocessing import resize_padded
from tests.export.package.test_clients import DROP, FIRST, PEAKS, SIDE, SPACED, days_of, frames, spaced_heads

ORG_JSON = Path(os.environ.get("ORG_JSON", "/usr/share/java/json-android.jar"))
"""What Android has of org.json, for Kotlin outside Android (Debian: libandroid-json-org-java)."""

JAVASCRIPT = """
import { readFileSync } from "node:fs";
import { age, ageProfile, classify, cosine, estimateAge, planar, readHeads } from "./reader.mjs";
const tasks = JSON.parse(readFileSync("tasks.json"));
const [heads, table] = [tasks.heads, tasks.table].map((path) => readHeads(Uint8Array.from(readFileSync(path)).buffer));
const interval = (profile, drop) => {
  const { days, low, high } = estimateAge(profile, drop);
  return [days, low, high];
};
const aged = (embedding, spacing) => interval(ageProfile(embedding, table, spacing), tasks.drop);
let refused = false;
try { age(tasks.embeddings[0], heads, 0.31); } catch (error) { refused = error instanceof RangeError; }
console.log(JSON.stringify({
  pixels: tasks.frames.map(({ file, width, height, kernel }) =>
    Array.from(planar(new Uint8ClampedArray(readFileSync(file)), width, height, tasks.side, kernel))),
  planes: tasks.embeddings.map((embedding) => classify(embedding, heads.planes)),
  days: tasks.embeddings.map((embedding) => age(embedding, heads, 0.3)),
  ends: tasks.embeddings.flatMap((embedding) => interval(ageProfile(embedding, heads, 0.3)).slice(1)),
  profiles: tasks.embeddings.map((embedding) => ageProfile(embedding, heads, 0.3).profile),
  equal: aged([1, 0], 0.3), peaks: tasks.peaks.map((spacing) => aged([1, 0], spacing)),
  spaced: tasks.spaced.map(([width, height, pixelSize]) =>
    aged([0, 1], (Math.max(width, height) / tasks.side) * pixelSize)),
  cosine: cosine(tasks.embeddings[0], tasks.embeddings[1].map((value) => 2 * value)), refused,
}));
"""

SWIFT = """
import Foundation

struct Frame: Decodable { let file: String, width: Int, height: Int, kernel: String }
struct Tasks: Decodable {
    let frames: [Frame], side: Int, heads: String, embeddings: [[Float]], table: String, spaced: [[Double]]
    let drop: Double, peaks: [Double]
}
struct Answers: Encodable {
    var pixels: [[Int]] = [], planes: [[String: Double]] = [], days: [Int] = [], ends: [Int?] = []
    var equal: [Int?] = [], peaks: [[Int?]] = [], spaced: [[Int?]] = [], refused = false
}

func bytes(_ path: String) -> Data { FileManager.default.contents(atPath: path)! }
let tasks = try JSONDecoder().decode(Tasks.self, from: bytes("tasks.json"))
let readers = try [false, true].map {
    try StudentReader(heads: bytes(tasks.heads), side: tasks.side, bicubic: $0, ageDrop: nil)
}
let reader = readers[1], side = tasks.side
var answers = Answers()
for frame in tasks.frames {
    let rgba = readers[frame.kernel == "bicubic" ? 1 : 0]
        .prepared([UInt8](bytes(frame.file)), width: frame.width, height: frame.height)
    answers.pixels.append((0..<(3 * side * side)).map { Int(rgba[4 * ($0 % (side * side)) + $0 / (side * side)]) })
}
for embedding in tasks.embeddings {
    answers.planes.append(try reader.classify(embedding, head: "planes"))
    let age = try reader.age(embedding, width: side, height: side / 2, pixelSizeMm: 0.3)
    answers.days.append(age.days)
    answers.ends += [age.youngest, age.oldest]
}
let table = try StudentReader(heads: bytes(tasks.table), side: side, bicubic: true, ageDrop: tasks.drop)
func aged(_ embedding: [Float], _ width: Int, _ height: Int, _ pixelSizeMm: Double) throws -> [Int?] {
    let age = try table.age(embedding, width: width, height: height, pixelSizeMm: pixelSizeMm)
    return [age.days, age.youngest, age.oldest]
}
answers.equal = try aged([1, 0], side, side, 0.3)
answers.peaks = try tasks.peaks.map { try aged([1, 0], side, side, $0) }
answers.spaced = try tasks.spaced.map { try aged([0, 1], Int($0[0]), Int($0[1]), $0[2]) }
do {
    _ = try reader.age(tasks.embeddings[0], width: side, height: side, pixelSizeMm: 0.31)
} catch StudentError.noSuchSpacing("0.31") { answers.refused = true }
let whole = bytes(tasks.heads)
for count in [4, 20, whole.count - 1] {
    do {
        _ = try StudentReader(heads: whole.prefix(count), side: side, bicubic: true, ageDrop: nil)
        answers.refused = false
    } catch StudentError.badFile(_) {}
}
print(String(decoding: try JSONEncoder().encode(answers), as: UTF8.self))
"""

KOTLIN = """
import java.io.File
import org.json.JSONArray
import org.json.JSONObject

fun main() {
    val tasks = JSONObject(File("tasks.json").readText())
    val side = tasks.getInt("side")
    val heads = File(tasks.getString("heads")).readBytes()
    val readers = listOf(false, true).map { StudentReader(heads, side, it, null) }
    val named = tasks.getJSONArray("frames")
    val pixels = List(named.length()) { number ->
        val frame = named.getJSONObject(number)
        val rgba = File(frame.getString("file")).readBytes().map { it.toInt() and 0xff }
        val argb = IntArray(rgba.size / 4) {
            (rgba[4 * it + 3] shl 24) or (rgba[4 * it] shl 16) or (rgba[4 * it + 1] shl 8) or rgba[4 * it + 2]
        }
        val reader = readers[if (frame.getString("kernel") == "bicubic") 1 else 0]
        JSONArray(reader.planar(argb, frame.getInt("width"), frame.getInt("height")).map { it.toInt() })
    }
    val rows = tasks.getJSONArray("embeddings")
    val embeddings = List(rows.length()) { row ->
        FloatArray(rows.getJSONArray(row).length()) { rows.getJSONArray(row).getDouble(it).toFloat() }
    }
    val table = StudentReader(File(tasks.getString("table")).readBytes(), side, true, tasks.getDouble("drop"))
    fun aged(embedding: FloatArray, width: Int, height: Int, pixelSizeMm: Double): JSONArray {
        val age = table.age(embedding, width, height, pixelSizeMm)
        return JSONArray(listOf(age.days, age.youngest, age.oldest))
    }
    val (away, equal) = floatArrayOf(0f, 1f) to floatArrayOf(1f, 0f)
    val asked = tasks.getJSONArray("spaced")
    val spaced = List(asked.length()) {
        val one = asked.getJSONArray(it)
        aged(away, one.getInt(0), one.getInt(1), one.getDouble(2))
    }
    val rare = tasks.getJSONArray("peaks")
    val peaks = List(rare.length()) { aged(equal, side, side, rare.getDouble(it)) }
    val ages = embeddings.map { readers[1].age(it, side, side / 2, 0.3) }
    val refused = try {
        readers[1].age(embeddings[0], side, side, 0.31)
        false
    } catch (error: IllegalArgumentException) { "0.31" in error.message!! }
    println(JSONObject(mapOf(
        "pixels" to JSONArray(pixels), "refused" to refused, "spaced" to JSONArray(spaced),
        "equal" to aged(equal, side, side, 0.3), "peaks" to JSONArray(peaks),
        "planes" to JSONArray(embeddings.map { JSONObject(readers[1].classify(it, "planes")) }),
        "days" to JSONArray(ages.map { it.days }),
        "ends" to JSONArray(ages.flatMap { listOf(it.youngest, it.oldest) }),
    )))
}
"""


@pytest.fixture
def tasks(exported, golden, tmp_path):
    """Frames and embeddings for a reader, in `tasks.json`; returns the expected pixels and embeddings."""
    named, wanted = [], []
    # JavaScript resizes one channel of gray: not where another differs in a single pixel.
    gray, yellow, cyan = (np.repeat(next(frames())[..., :1], 3, axis=2) for _ in range(3))
    yellow[300, 500, 2] ^= 255
    cyan[300, 500, 0] ^= 255
    given = [*frames(), gray, yellow, cyan]
    for number, (frame, kernel) in enumerate(itertools.product(given, ["bicubic", "bilinear"])):
        path = tmp_path / f"{number}.raw"
        path.write_bytes(np.dstack([frame, np.full_like(frame[..., :1], 9)]).tobytes())
        named.append({"file": str(path), "width": frame.shape[1], "height": frame.shape[0], "kernel": kernel})
        contract = Preprocessing(SIDE, (0.0,) * 3, (1.0,) * 3, interpolation=kernel)
        wanted.append(resize_padded(frame, contract).transpose(2, 0, 1).reshape(-1))
    embeddings = [row["embedding"] for row in golden[0]]
    asked = {
        "frames": named,
        "side": SIDE,
        "heads": str(exported.artifact("heads")),
        "embeddings": embeddings,
        "table": str(spaced_heads(tmp_path)),
        "spaced": SPACED,
        "drop": DROP,
        "peaks": [(FIRST + row) / 100 for row in range(len(PEAKS))],
    }
    (tmp_path / "tasks.json").write_text(json.dumps(asked))
    return wanted, np.array(embeddings, np.float32)


def run(command, folder):
    """Run a command in a folder and return its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def need(program, remedy):
    """Skip a test where a program is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed ({remedy})")


def check(answer, tasks, exported, golden):
    """Compare a reader's answers with Pillow, the golden classes and the Python student's ages."""
    pixels, embeddings = tasks
    np.testing.assert_array_equal(answer["pixels"], pixels)
    student = load_student(exported.folder)
    expected = student.ages(embeddings, [0.3] * len(embeddings))
    logits = student.cosine_scale * embeddings @ student.classes["planes"][1].T
    leads = [np.log([*row.values()]) for row in answer["planes"]]  # README.md: of "none of these"
    leads = [row.max() - row.mean() for row in leads]
    np.testing.assert_allclose(leads, logits.max(axis=1) - logits.mean(axis=1), atol=1e-3)
    for row, planes, days, age in zip(golden[0], answer["planes"], answer["days"], expected, strict=True):
        assert planes == pytest.approx(row["planes"], abs=1e-4)
        assert abs(days - age["ga_days"]) <= 1, "sums in float64, not float32: two ages may tie"
    assert set(answer["ends"]) == {None}, "without a drop no age has an interval"
    assert answer["equal"] == [98 + 7, 98, 272], "the middle of the first fifteen; all are equally similar"
    assert answer["peaks"] == [list(age) for *_, age in PEAKS]
    assert answer["spaced"] == [[days, days - 2, days + 2] for days in (days_of(*one) for one in SPACED)]
    assert answer["refused"] is True


def test_javascript_is_exact(tasks, exported, golden, tmp_path):
    need("node", "nodejs.org")
    (tmp_path / "run.mjs").write_text(JAVASCRIPT)
    shutil.copy(exported.folder / "reader.mjs", tmp_path)
    answer = json.loads(run(["node", "run.mjs"], tmp_path))
    check(answer, tasks, exported, golden)
    student = load_student(exported.folder)
    similarity = student.cosine_scale * tasks[1] @ student.age_vectors(0.3)[2].T
    np.testing.assert_allclose(answer["profiles"], similarity, atol=1e-3)
    first, second = tasks[1][:2]
    assert answer["cosine"] == pytest.approx(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.slow
def test_swift_is_exact(tasks, exported, golden, tmp_path):
    need("swiftc", "swift.org, or Xcode")
    (tmp_path / "main.swift").write_text(SWIFT)
    source = exported.folder / "StudentReader.swift"
    run(["swiftc", "-O", "-warnings-as-errors", "main.swift", str(source), "-o", "reader"], tmp_path)
    check(json.loads(run(["./reader"], tmp_path)), tasks, exported, golden)


@pytest.mark.slow
def test_kotlin_is_exact(tasks, exported, golden, tmp_path):
    need("kotlinc", "npm install --global kotlin-compiler, and Java")
    if not ORG_JSON.is_file():
        pytest.skip(f"{ORG_JSON} is not there (apt-get install libandroid-json-org-java)")
    (tmp_path / "Main.kt").write_text(KOTLIN)
    source = exported.folder / "StudentReader.kt"
    jars = ["-classpath", str(ORG_JSON)]
    run(
        ["kotlinc", "-Werror", *jars, "Main.kt", str(source), "-include-runtime", "-d", "reader.jar"],
        tmp_path,
    )
    answer = run(["java", "-classpath", f"reader.jar{os.pathsep}{ORG_JSON}", "MainKt"], tmp_path)
    check(json.loads(answer), tasks, exported, golden)
