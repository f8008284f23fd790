// From an embedding to answers: classes with "none of these", gestational age with its interval, the WHO chart.
// The same arithmetic as models/student/base.py and metrics/calibration.py.

/** The 65,536 half-precision numbers as floats. */
const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
});

/** Read heads.safetensors: name -> its description, shape and `row(start, length)` as floats. */
export function readHeads(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: texts, ...tensors } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  return Object.fromEntries(Object.entries(tensors).map(([name, { dtype, shape, data_offsets: [begin, end] }]) => {
    const bytes = buffer.slice(start + begin, start + end);
    const numbers = dtype === "F16" ? new Uint16Array(bytes) : new Float32Array(bytes);
    const row = (first, length) => {
      const part = numbers.subarray(first, first + length);
      return dtype === "F16" ? Float32Array.from(part, (bits) => HALF[bits]) : part;
    };
    return [name, { ...JSON.parse(texts[name] ?? "{}"), shape, row }];
  }));
}

/** 100 * cosine of an embedding with unit-length vectors, row by row. */
function similarities(embedding, vectors, scale) {
  const length = embedding.length;
  return Array.from({ length: vectors.length / length }, (_, row) => {
    let dot = 0;
    for (let i = 0; i < length; i++) dot += vectors[row * length + i] * embedding[i];
    return scale * dot;
  });
}

/** Probabilities of a head's labels, and the answer: a label, or "none" when the lead is below `noneBelow`. */
export function classify(embedding, head, noneBelow) {
  const logits = similarities(embedding, head.row(0, head.shape[0] * head.shape[1]), head.cosine_scale);
  const top = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - top));
  const sum = weights.reduce((a, b) => a + b, 0);
  const probabilities = weights.map((weight) => weight / sum);
  const best = logits.indexOf(top);
  const lead = top - logits.reduce((a, b) => a + b, 0) / logits.length;
  const none = noneBelow !== undefined && lead < noneBelow;
  return { labels: head.labels, probabilities, best, answer: none ? "none" : head.labels[best] };
}

/** A spacing with two decimals as Python prints it: of an exact tie, the even digit. */
export const printed = (spacing) => ((8 * spacing) % 4 === 1 ? spacing - 0.005 : spacing).toFixed(2);

/**
 * Similarity of an embedding with every age in the age table's row for an input's pixel spacing in mm.
 * @returns the first age in days, and the similarities; null where the table has no such row.
 * The only place that knows how the table is stored: as coordinates in a basis.
 */
export function ageProfile(embedding, heads, spacing) {
  // The prompts print two decimals: the row of another spacing would be off by days.
  const { ages } = heads, basis = heads[ages.basis], row = ages.spacings_mm_per_px.indexOf(printed(spacing));
  if (row < 0) return null;
  const point = similarities(embedding, basis.row(0, basis.shape[0] * basis.shape[1]), 1);
  const length = ages.shape[1] * ages.shape[2];
  const profile = similarities(point, ages.row(row * length, length), ages.cosine_scale);
  return { firstDay: ages.ages_days[0], profile };
}

/** Gestational age in days: the middle one of the `top` most similar ages; with a `drop` also its interval. */
export function estimateAge({ firstDay, profile }, top, drop) {
  const order = profile.map((_, index) => index).sort((a, b) => profile[b] - profile[a] || a - b);
  const age = order.slice(0, top).sort((a, b) => a - b)[top >> 1];
  const answer = { days: firstDay + age, low: null, high: null };
  if (drop === null || drop === undefined) return answer;
  const least = profile[order[0]] - drop;
  const low = profile.findIndex((value) => value >= least), high = profile.findLastIndex((value) => value >= least);
  return { ...answer, low: firstDay + Math.min(low, age), high: firstDay + Math.max(high, age) };
}

/** Head circumference in mm of the WHO fetal growth chart at an age in weeks. */
export function headCircumference(coefficients, weeks) {
  return Math.exp(coefficients.reduce((sum, value, power) => sum + value * weeks ** power, 0));
}

/** Cosine of two embeddings. */
export function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { dot += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return dot / Math.sqrt(aa * bb);
}

/** "27 w 3 d". */
export const ageText = (days) => `${Math.floor(days / 7)} w ${days % 7} d`;
