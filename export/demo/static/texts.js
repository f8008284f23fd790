// In the worker: the export's text tower, loaded when it is first asked; labels to a head of unit-length vectors.
import { cosine } from "./reader.mjs";
import { readTokenizer } from "./tokenizer.js";

const json = (buffer) => JSON.parse(new TextDecoder().decode(buffer));

/**
 * Verify and load the text tower, which must reproduce the golden texts' tokens and embeddings.
 * @returns a function of a text: its unit-length `vector`, and what the tokenizer says of it.
 */
export async function loadTexts({ model, tokenizer, golden }, ort, download, exclusive) {
  const files = await download([model, tokenizer, golden]), tokenize = readTokenizer(json(files[tokenizer]));
  // WebAssembly whatever reads the frames: a few texts need no speed.
  const session = await exclusive(() => ort.InferenceSession.create(files[model], { executionProviders: ["wasm"] }));
  const embed = async (text) => {
    const { ids, cut, spelled } = tokenize(text);
    const tokens = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const found = (await exclusive(() => session.run({ tokens })))[session.outputNames[0]].data;
    const norm = Math.hypot(...found);
    return { ids, cut, spelled, vector: found.map((value) => value / norm) };
  };
  const { rows, cosine_min: least } = json(files[golden]);
  for (const row of rows) {
    const { ids, vector } = await embed(row.text), value = cosine(vector, row.embedding);
    const failure = ids.join() !== row.tokens.join() ? "has other tokens than in Python"
      : value >= least ? null : `has cosine ${value.toFixed(4)} with the exported embedding, at least ${least} is needed`;
    if (failure) throw new Error(`self-test of the text tower failed: "${row.text}" ${failure}. No label is scored`);
  }
  return embed;
}

/** A head as those of heads.safetensors, of labels and their prompts, with what the tokenizer says of the prompts. */
export async function headOf(labels, prompts, embed, scale) {
  const found = [];
  for (const prompt of prompts) found.push(await embed(prompt)); // one by one: frames are read in between
  const size = found[0].vector.length, vectors = new Float32Array(labels.length * size);
  found.forEach(({ vector }, index) => vectors.set(vector, index * size));
  return {
    head: { labels, shape: [labels.length, size], cosine_scale: scale, row: () => vectors },
    cut: labels.filter((_, index) => found[index].cut),
    spelled: [...new Set(found.flatMap(({ spelled }) => spelled))],
  };
}
