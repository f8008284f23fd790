/** Frame to model input, and embedding to answers, as the contract of the export wants it. Not a medical device. */

const BITS = 22; // fixed-point digits of Pillow's 8-bit weights: 32 - 8 - 2
const TOP = 15; // the age is the median of the TOP most similar ages

/** Pillow's kernels. */
const KERNELS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight(signed) {
      const x = Math.abs(signed), a = -0.5;
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
};

/** First source pixel and fixed-point weights of each of `size` pixels that `length` pixels shrink or grow to. */
function taps(length, size, name) {
  const { support, weight } = KERNELS[name];
  const scale = length / size, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: size }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(length, Math.trunc(centre + reach + 0.5));
    const raw = Array.from({ length: end - first }, (_, x) => weight((x + first - centre + 0.5) * (1 / stretch)));
    const sum = raw.reduce((a, b) => a + b, 0);
    const fixed = raw.map((w) => Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5)));
    return { first, weights: Int32Array.from(fixed) };
  });
}

const known = new Map();
function cachedTaps(length, size, name) {
  const key = `${length} ${size} ${name}`;
  if (!known.has(key)) {
    if (known.size > 8) known.clear();
    known.set(key, taps(length, size, name));
  }
  return known.get(key);
}

const clip = (sum) => Math.min(255, Math.max(0, sum >> BITS));

/** Whether red, green and blue are equal in every pixel: then one channel is enough. */
function isGray(rgba) {
  const words = new Uint32Array(rgba.buffer, rgba.byteOffset, rgba.length >> 2);
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    if (((word ^ (word >>> 8)) & 0xffff) !== 0) return false;
  }
  return true;
}

/**
 * The model's input of a frame, padded to a black square and resized exactly as in training (Pillow's 8-bit resampling,
 * libImaging/Resample.c).
 * @param rgba pixels of the frame's own size (getImageData), row by row, 4 bytes each; alpha is ignored
 * @param kernel the contract's interpolation, "bicubic" or "bilinear"
 * @returns Float32Array [3, side, side], 0 to 255
 */
export function planar(rgba, width, height, side, kernel) {
  const longer = Math.max(width, height);
  const left = (longer - width) >> 1, top = (longer - height) >> 1; // an odd pixel goes right and below
  const places = cachedTaps(longer, side, kernel);
  const channels = isGray(rgba) ? 1 : 3;
  const output = new Float32Array(3 * side * side), half = 1 << (BITS - 1);
  const rows = new Uint8Array(height * side); // one channel, resized horizontally; rows of the bars are zero
  for (let channel = 0; channel < channels; channel++) {
    for (let x = 0; x < side; x++) {
      const { first, weights } = places[x];
      const from = Math.max(first, left), to = Math.min(first + weights.length, left + width);
      for (let y = 0; y < height; y++) {
        let sum = half, place = 4 * (y * width + from - left) + channel;
        for (let source = from; source < to; source++, place += 4) sum += rgba[place] * weights[source - first];
        rows[y * side + x] = clip(sum);
      }
    }
    for (let y = 0; y < side; y++) {
      const { first, weights } = places[y];
      const from = Math.max(first, top), to = Math.min(first + weights.length, top + height);
      for (let x = 0; x < side; x++) {
        let sum = half;
        for (let source = from; source < to; source++) sum += rows[(source - top) * side + x] * weights[source - first];
        output[(channel * side + y) * side + x] = clip(sum);
      }
    }
  }
  if (channels === 1) for (const channel of [1, 2]) output.copyWithin(channel * side * side, 0, side * side);
  return output;
}

/** The half-precision numbers by their 16 bits; infinities and NaN are in no export. */
const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
});

/** The heads of heads.safetensors: name -> description, shape and `row(start, length)` as floats. */
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

/** `scale` times the product of an embedding with each row of a matrix. */
function similarities(embedding, vectors, scale) {
  const length = embedding.length;
  return Array.from({ length: vectors.length / length }, (_, row) => {
    let dot = 0;
    for (let i = 0; i < length; i++) dot += vectors[row * length + i] * embedding[i];
    return scale * dot;
  });
}

/** Logits of a class head: 100 * cosine of an embedding with each of its vectors. */
export const logitsOf = (embedding, head) =>
  similarities(embedding, head.row(0, head.shape[0] * head.shape[1]), head.cosine_scale);

export function softmax(logits) {
  const top = Math.max(...logits), odds = logits.map((logit) => Math.exp(logit - top));
  const sum = odds.reduce((a, b) => a + b, 0);
  return odds.map((value) => value / sum);
}

/** Probabilities of a class head, label -> share. */
export const classify = (embedding, head) =>
  Object.fromEntries(softmax(logitsOf(embedding, head)).map((share, index) => [head.labels[index], share]));

/** A spacing with two decimals as Python prints it: of an exact tie, the even digit. */
export const printed = (spacing) => ((8 * spacing) % 4 === 1 ? spacing - 0.005 : spacing).toFixed(2);

/**
 * Similarity of an embedding with every age in the age table's row for `spacing`, the model's input's in mm.
 * @returns the first age in days, and the similarities; null where there is no table or no such row in it.
 */
export function ageProfile(embedding, heads, spacing) {
  // The prompts print two decimals: the row of another spacing would be off by days.
  const { ages } = heads, row = ages ? ages.spacings_mm_per_px.indexOf(printed(spacing)) : -1;
  if (row < 0) return null;
  const basis = heads[ages.basis];
  const point = similarities(embedding, basis.row(0, basis.shape[0] * basis.shape[1]), 1);
  const length = ages.shape[1] * ages.shape[2];
  return { firstDay: ages.ages_days[0], profile: similarities(point, ages.row(row * length, length), ages.cosine_scale) };
}

/** Gestational age in days; with the calibration's `drop` also its interval. */
export function estimateAge({ firstDay, profile }, drop = null) {
  const order = profile.map((_, index) => index).sort((a, b) => profile[b] - profile[a]);
  const age = order.slice(0, TOP).sort((a, b) => a - b)[TOP >> 1], days = firstDay + age;
  if (drop === null) return { days, low: null, high: null };
  const least = profile[order[0]] - drop;
  const low = profile.findIndex((value) => value >= least), high = profile.findLastIndex((value) => value >= least);
  return { days, low: firstDay + Math.min(low, age), high: firstDay + Math.max(high, age) };
}

/** Gestational age in days; `spacing` is longer side / S * pixel size in mm. Throws where the table has no such row. */
export function age(embedding, heads, spacing) {
  const found = ageProfile(embedding, heads, spacing);
  if (!found) throw new RangeError(`pixel spacing ${printed(spacing)} mm is not in the export's age table`);
  return estimateAge(found).days;
}

/** Cosine of two embeddings; a page checks it against golden.json before it trusts an execution provider. */
export function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { dot += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return dot / Math.sqrt(aa * bb);
}
