// LiteRT.js: Google's runtime for .tflite files, XNNPACK in WebAssembly, here on one thread.
const MODULE = "./litert/module.js";

let wasmBinary = null;

/** What core.js imports in place of @litertjs/wasm-utils; the file was verified by the worker. */
export async function createWasmLib(Library) {
  const { default: create } = await import(MODULE);
  return new Library(await create({ wasmBinary, print: () => {}, printErr: () => {} }), null);
}

/** Load a model; returns a function from an input of this shape to its embedding. */
export async function openLiteRt(binary, model, shape) {
  wasmBinary = binary;
  console.warn = () => {}; // it warns that there is no GPU, which the page does not ask it to use
  const { Tensor, loadAndCompile, loadLiteRt, supportsFeature } = await import("./litert/core.js");
  if (!(await supportsFeature("relaxedSimd"))) throw new Error("LiteRT needs relaxed SIMD, which this browser does not have");
  await loadLiteRt(MODULE);
  const compiled = await loadAndCompile(new Uint8Array(model), { accelerator: "wasm" });
  return async (input) => {
    const tensor = new Tensor(input, shape), [output] = await compiled.run(tensor);
    const embedding = output.toTypedArray().slice();
    for (const used of [tensor, output]) used.delete();
    return embedding;
  };
}
