// The runtime: what the visitor may choose, and what the page says of the one in use.

const $ = (id) => document.getElementById(id);
const RUNTIMES = { wasm: "WebAssembly", webgpu: "WebGPU", litert: "LiteRT" };

/** The runtimes of which the page has a model and the browser what they need. */
export const runtimesOf = (variants) =>
  Object.keys(RUNTIMES).filter((name) => weightsOf(name, variants).length && (name !== "webgpu" || navigator.gpu));

/** The weights that a runtime reads; WebGPU has no int8 kernels. */
export const weightsOf = (runtime, variants) => Object.keys(variants).filter((name) =>
  (runtime === "webgpu" ? name === "onnx-fp32" : name.startsWith(runtime === "litert" ? "litert-" : "onnx-")));

/** A runtime with its threads and these weights, or with the first that it reads. */
export function engineOf(variants, runtime, threads, weights) {
  const known = weightsOf(runtime, variants);
  return { runtime, threads, weights: known.includes(weights) ? weights : known[0] };
}

/** The runtime that the page's address asks for; by default WebAssembly with up to four threads. */
export function askedEngine(variants, cores) {
  const asked = new URLSearchParams(location.search), runtime = asked.get("runtime"), threads = Number(asked.get("threads"));
  return engineOf(variants, runtimesOf(variants).includes(runtime) ? runtime : "wasm",
    Math.min(cores, Number.isInteger(threads) && threads > 0 ? threads : 4), asked.get("weights"));
}

/** What runs, and how exactly it reproduced the golden frames. */
export function showFacts(demo, engine, facts) {
  const { tested } = facts;
  const threads = `, ${engine.threads} thread${engine.threads > 1 ? "s" : ""}`;
  const runtime = engine.runtime === "litert" ? `LiteRT.js ${demo.runtimes.litert}, WebAssembly, 1 thread`
    : `ONNX Runtime Web ${demo.runtimes.onnx}, ${RUNTIMES[engine.runtime]}${engine.runtime === "wasm" ? threads : ""}`;
  $("facts").textContent = `${runtime}. Student ${demo.model.slice(0, 12)}, ${facts.side} × ${facts.side} pixels, `
    + `ready after ${(facts.milliseconds / 1000).toFixed(1)} s. Self-test: ${tested.frames} golden frames, cosine at least `
    + `${Math.min(tested.input, tested.frame).toFixed(6)}, ${tested.resize === 0 ? "resize equal to training's" : `resize at most ${tested.resize} grey levels off`}.`
    + (facts.calibrated ? "" : " Not calibrated: no answer is “none of these”, ages have no interval.");
}

/** Fill the choices of runtime, threads and weights. */
export function fillEngine(engine, cores, variants) {
  const fill = (id, values, chosen) => {
    const select = $(id);
    select.replaceChildren(...values.map(([value, text]) => new Option(text, value, false, String(value) === String(chosen))));
    select.disabled = values.length < 2;
  };
  fill("runtime", runtimesOf(variants).map((name) => [name, RUNTIMES[name]]), engine.runtime);
  const threads = engine.runtime === "wasm" ? Array.from({ length: cores }, (_, index) => [index + 1, index + 1]) : [[engine.threads, "–"]];
  fill("threads", threads, engine.threads);
  const weights = weightsOf(engine.runtime, variants).map((name) => [name, name.split("-")[1].replace("fp32", "float32")]);
  fill("weights", weights, engine.weights);
}
