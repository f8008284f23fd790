// Web Worker: fetches and verifies the files, holds the runtime, tests itself on the golden frames, reads frames.
import { classify } from "./answers.js";
import { openLiteRt } from "./litert.js";
import { bitmapOf, paint } from "./pictures.js";
import { ageProfile, cosine, estimateAge, planar, printed, readHeads } from "./reader.mjs";
import { headOf, loadTexts } from "./texts.js";

// The files of WebAssembly, and ONNX Runtime's scripts.
const BINARIES = {
  wasm: "ort/ort-wasm-simd-threaded.wasm",
  webgpu: "ort/ort-wasm-simd-threaded.asyncify.wasm",
  litert: "litert/module.wasm",
};
const SCRIPTS = { wasm: "./ort/ort.wasm.bundle.min.mjs", webgpu: "./ort/ort.webgpu.bundle.min.mjs" };

let demo, side, kernel, heads, limits, run;
let ort = null; // ONNX Runtime, which LiteRT's frames do without until labels are asked for
let texts = null, own = null; // the text tower once it is loaded, and the head of the visitor's labels
// The service worker's; null where the browser keeps nothing.
const cache = globalThis.caches?.open(`sonodistill-demo ${new URL(".", location.href)}`).catch(() => null);
const fresh = []; // address and content of verified files that are not kept yet
const context = new OffscreenCanvas(1, 1).getContext("2d", { alpha: false, willReadFrequently: true });

const tell = (kind, values) => postMessage({ kind, ...values });
const hex = (digest) => Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");

let turn = Promise.resolve();
/** One at a time: calls of the runtime that overlap would share its stack. */
const exclusive = (task) => (turn = turn.catch(() => {}).then(task));

/**
 * Fetch files of the build with one progress bar; every one must have the SHA-256 that the build recorded.
 * @returns name -> promise of the content
 */
function download(names, progress = "progress") {
  if (!crypto.subtle) throw new Error("this page needs https or localhost: without them files cannot be verified");
  const total = names.reduce((sum, name) => sum + demo.files[name].bytes, 0);
  let loaded = 0, told = 0;
  const fetched = async (name) => {
    const { sha256, bytes } = demo.files[name], address = `${name}?v=${sha256}`;
    const kept = await (await cache)?.match(address);
    // The service worker leaves "no-store" alone: it would copy every byte.
    const response = kept ?? await fetch(address, { cache: "no-store" }).catch(() => null);
    if (!response?.ok) throw new Error(`${name} cannot be fetched; reload the page`);
    const content = new Uint8Array(bytes);
    let end = 0;
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (end + value.length <= bytes) content.set(value, end);
      end += value.length;
      loaded += value.length;
      if (loaded - told > 200_000 || loaded === total) tell(progress, { loaded: (told = loaded), total });
    }
    if (end !== bytes || hex(await crypto.subtle.digest("SHA-256", content)) !== sha256) {
      if (kept) await (await cache).delete(address);
      throw new Error(`${name} is not the file of this build: its SHA-256 differs. Reload the page; if that does not help, build it again`);
    }
    if (!kept) fresh.push([address, content]);
    return content.buffer;
  };
  return Object.fromEntries(names.map((name) => [name, fetched(name)]));
}

/** Wait for files of `download`. */
async function all(files) {
  return Object.fromEntries(await Promise.all(Object.entries(files).map(async ([name, file]) => [name, await file])));
}

/**
 * Keep verified files for the next visit. The page's first worker removes those of other builds; a later one may run in an old tab
 * beside a new build's page.
 */
async function keep(first = false) {
  const store = await cache, hashes = Object.values(demo.files).map(({ sha256 }) => sha256);
  if (!store) return;
  try {
    for (const request of first ? await store.keys() : []) {
      const hash = new URL(request.url).searchParams.get("v");
      if (hash && !hashes.includes(hash)) await store.delete(request);
    }
    for (const [address, content] of fresh.splice(0)) await store.put(address, new Response(content));
  } catch {
    // Without room the next visit fetches them again.
  }
}

const json = (buffer) => JSON.parse(new TextDecoder().decode(buffer));

/** RGBA pixels of an image file or bitmap. */
async function pixelsOf(source) {
  const bitmap = source instanceof Blob ? await bitmapOf(source) : source;
  const { width, height } = bitmap;
  paint(context, bitmap);
  bitmap.close();
  return { rgba: context.getImageData(0, 0, width, height).data, width, height };
}

/** ONNX Runtime Web with WebAssembly or WebGPU, from its verified file. */
async function onnxRuntime(runtime, wasmBinary, numThreads) {
  const found = await import(SCRIPTS[runtime]);
  found.env.logLevel = "error";
  Object.assign(found.env.wasm, { wasmBinary, numThreads });
  return found;
}

/** Load a model into ONNX Runtime; returns a function from an input of this shape to its embedding. */
async function openOnnx(runtime, model, shape) {
  const session = await ort.InferenceSession.create(model, { executionProviders: [runtime] }), [output] = session.outputNames;
  return async (input) => (await session.run({ image: new ort.Tensor("float32", input, shape) }))[output].data;
}

const embed = (input) => exclusive(() => run(input));

const inputOf = ({ rgba, width, height }) => planar(rgba, width, height, side, kernel);

/** Decode and resize the golden pictures by this page's own path, while the model is still loaded. */
async function goldenInputs(files) {
  const { contract } = json(await files["manifest.json"]), golden = json(await files["golden/golden.json"]);
  [side, kernel] = [contract.input.shape[3], contract.preprocessing.interpolation];
  golden.inputs = [];
  for (const row of golden.rows) {
    golden.inputs.push(await Promise.all(["input", "frame"].map(async (kind) =>
      inputOf(await pixelsOf(new Blob([await files[`golden/${row[kind]}`]]))))));
  }
  return golden;
}

/** Embed the golden pictures; refuse to answer when an embedding is not the exporter's. */
async function selfTest(golden, weights) {
  const least = { input: 1, frame: 1, resize: 0 };
  const own = golden.variants?.[weights] ?? golden; // smaller weights may have limits and answers of their own
  for (const [number, row] of golden.rows.entries()) {
    const { embedding } = own.rows[number], [input, frame] = golden.inputs[number];
    const difference = input.reduce((most, value, index) => Math.max(most, Math.abs(value - frame[index])), 0);
    const fromInput = cosine(await embed(input), embedding);
    // Equal pixels have equal embeddings: the second run is left out.
    const fromFrame = difference === 0 ? fromInput : cosine(await embed(frame), embedding);
    least.resize = Math.max(least.resize, difference);
    for (const [kind, value] of [["input", fromInput], ["frame", fromFrame]]) {
      least[kind] = Math.min(least[kind], value);
      const limit = own[`cosine_min_from_${kind}`];
      if (!(value >= limit)) {
        throw new Error(`self-test failed: ${row[kind]} has cosine ${value.toFixed(4)} with the exported embedding, `
          + `at least ${limit} is needed. This browser does not reproduce the trained student's embeddings`);
      }
    }
  }
  return { ...least, frames: golden.rows.length };
}

async function start(options) {
  const begun = performance.now();
  demo = options.demo;
  const { runtime, threads, weights } = options, binary = BINARIES[runtime], model = demo.variants[weights];
  const pictures = Object.keys(demo.files).filter((name) => name.startsWith("golden/"));
  const loading = download([binary, model, demo.heads, "manifest.json", ...pictures]);
  const [files, golden] = await Promise.all([all(loading), goldenInputs(loading)]);
  const manifest = json(files["manifest.json"]), shape = [1, ...manifest.contract.input.shape.slice(1)];
  limits = { none_below: {}, age_drop: null, coverage: null, ...manifest.answers };
  heads = readHeads(files[demo.heads]);
  tell("stage", { text: "Starting the runtime" });
  if (runtime === "litert") {
    run = await openLiteRt(files[binary], files[model], shape);
  } else {
    ort = await onnxRuntime(runtime, files[binary], threads);
    run = await openOnnx(runtime, files[model], shape);
  }
  tell("stage", { text: "Self-test on the golden frames" });
  const tested = await selfTest(golden, weights);
  tell("ready", { tested, milliseconds: performance.now() - begun, side, calibrated: Boolean(manifest.answers), hasAges: "ages" in heads });
  await keep(options.first);
}

/** Read one frame: classes of every head; where the pixel size is known, the age of a brain plane, or of any. */
async function read({ id, frame, pixelSize, everyAge }) {
  const pixels = await pixelsOf(frame);
  const embedding = await embed(inputOf(pixels));
  const classes = demo.benchmarks.filter(({ name }) => name in heads).map((benchmark) => ({
    ...benchmark, ...classify(embedding, heads[benchmark.name], limits.none_below[benchmark.name]),
  }));
  const brain = !classes.some(({ key, answer }) => key === demo.brain.key && answer !== demo.brain.label);
  if (own) classes.push({ name: "own", key: "own", title: "Your own classes", ...classify(embedding, own) });
  let age = null, noRow = null;
  if ((brain || everyAge) && pixelSize && heads.ages) {
    const spacing = (Math.max(pixels.width, pixels.height) / side) * pixelSize;
    const row = ageProfile(embedding, heads, spacing);
    noRow = row === null ? printed(spacing) : null;
    if (row) {
      age = estimateAge(row, limits.age_drop);
      Object.assign(age, { spacing: Number(printed(spacing)), coverage: age.low === null ? null : limits.coverage });
    }
  }
  tell("answer", { id, classes: classes.filter(({ ofBrain }) => brain || !ofBrain), age, brain, noRow });
}

/** Score these labels from now on; none ends it. The text tower is loaded for the first ones. */
async function label({ labels, prompts }) {
  if (labels.length === 0) {
    own = null;
    return tell("labelled", { labels });
  }
  const fetched = (names) => all(download(names, "labelProgress"));
  ort ??= await onnxRuntime("wasm", (await fetched([BINARIES.wasm]))[BINARIES.wasm], 1);
  texts ??= await loadTexts(demo.text, ort, fetched, exclusive);
  const { cosine_scale: scale } = Object.values(heads).find(({ labels: some }) => some);
  const { head, cut, spelled } = await headOf(labels, prompts, texts, scale);
  own = head;
  tell("labelled", { labels, cut, spelled });
  await keep();
}

const TASKS = { start: [start, "refused"], read: [read, "failed"], label: [label, "unlabelled"] };
onmessage = async ({ data }) => {
  const [task, failure] = TASKS[data.kind];
  try {
    await task(data);
  } catch (error) {
    await keep(); // the next runtime needs some of these files
    tell(failure, { id: data.id, text: String(error?.message ?? error).replace(/\.$/, "") }); // a sentence goes on with it
  }
};
