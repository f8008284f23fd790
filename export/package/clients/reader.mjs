/** Frame to model input, and embedding to answers, as the contract of the export wants it. Not a medical device. */

const BITS = 22; // of Pillow's fixed-point weights
const TOP = 15; // the age is the median of the TOP most similar ages

/** Pillow's bicubic (a = -0.5) or bilinear kernel. */
function kernel(x, bicubic) {
  x = Math.abs(x);
  if (!bicubic) return Math.max(0, 1 - x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** For every target pixel the first source pixel and the whole-number weights from there on. */
function weights(size, side, bicubic) {
  const scale = size / side, stretch = Math.max(scale, 1), reach = (bicubic ? 2 : 1) * stretch;
  return Array.from({ length: side }, (_, row) => {
    const centre = (row + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(size, Math.trunc(centre + reach + 0.5));
    const own = Array.from({ length: last - first }, (_, i) => kernel((first + i - centre + 0.5) / stretch, bicubic));
    const sum = own.reduce((a, b) => a + b, 0);
    return { first, own: own.map((value) => Math.trunc((value / sum) * 2 ** BITS + (value < 0 ? -0.5 : 0.5))) };
  });
}

/** Resize every line of RGBA pixels; `step` is the distance of pixels in a line, `line` that of lines. */
function pass(source, target, table, lines, from, to) {
  for (let line = 0; line < lines; line++) {
    for (let row = 0; row < table.length; row++) {
      const { first, own } = table[row];
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1), place = from.line * line + from.step * first + channel;
        for (let i = 0; i < own.length; i++, place += from.step) sum += source[place] * own[i];
        // A clamped array rounds to the nearest; the sum is already shifted by a half.
        target[to.line * line + to.step * row + channel] = Math.floor(sum / 2 ** BITS);
      }
    }
  }
  return target;
}

/**
 * A frame's RGBA pixels (getImageData of its own size) padded to a black square and resized exactly as in training:
 * RGBA, side x side.
 */
export function resized(rgba, width, height, side, bicubic) {
  if (bicubic === undefined) throw new TypeError("bicubic: whether the contract's interpolation is bicubic");
  const longer = Math.max(width, height), left = (longer - width) >> 1, top = (longer - height) >> 1;
  const square = new Uint8ClampedArray(4 * longer * longer);
  for (let y = 0; y < height; y++) {
    square.set(rgba.subarray(4 * width * y, 4 * width * (y + 1)), 4 * (longer * (top + y) + left));
  }
  if (longer === side) return square;
  const table = weights(longer, side, bicubic), narrow = new Uint8ClampedArray(4 * longer * side);
  pass(square, narrow, table, longer, { line: 4 * longer, step: 4 }, { line: 4 * side, step: 4 });
  const done = new Uint8ClampedArray(4 * side * side).fill(255);
  return pass(narrow, done, table, side, { line: 4, step: 4 * side }, { line: 4, step: 4 * side });
}

/** RGBA pixels as the planar RGB tensor [1, 3, S, S], 0 to 255. */
export function planar(rgba, side) {
  const area = side * side, pixels = new Float32Array(3 * area);
  for (let i = 0; i < area; i++) for (let c = 0; c < 3; c++) pixels[c * area + i] = rgba[4 * i + c];
  return pixels;
}

/** The heads of heads.safetensors: name -> description, shape and numbers, row by row. */
export function readHeads(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: texts, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  const heads = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(entries)) {
    const bytes = buffer.slice(start + begin, start + end);
    const vectors = dtype === "F16" ? Float32Array.from(new Uint16Array(bytes), fromHalf) : new Float32Array(bytes);
    heads[name] = { ...(name in texts ? JSON.parse(texts[name]) : {}), shape, vectors };
  }
  return heads;
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

/** Product of a matrix, from its row `first` on, with a vector. */
function product(matrix, first, rows, vector) {
  const out = new Float64Array(rows), width = vector.length;
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < width; i++) out[row] += matrix[(first + row) * width + i] * vector[i];
  }
  return out;
}

/** Probabilities of a class head, label -> share. */
export function classify(embedding, head) {
  const logits = product(head.vectors, 0, head.shape[0], embedding).map((value) => head.cosine_scale * value);
  const top = Math.max(...logits), odds = logits.map((logit) => Math.exp(logit - top));
  const sum = odds.reduce((a, b) => a + b, 0);
  return Object.fromEntries(head.labels.map((label, row) => [label, odds[row] / sum]));
}

/** A spacing with two decimals as Python prints it: of an exact tie, the even digit. */
const printed = (spacing) => ((8 * spacing) % 4 === 1 ? spacing - 0.005 : spacing).toFixed(2);

/** Gestational age in days; `spacing` is longer side / S * pixel size in mm. Throws where the table has no such row. */
export function age(embedding, { ages, ages_basis: basis }, spacing) {
  const text = printed(spacing), row = ages.spacings_mm_per_px.indexOf(text), count = ages.shape[1];
  if (row < 0) throw new RangeError(`pixel spacing ${text} mm is not in the export's age table`);
  const similarity = product(ages.vectors, row * count, count, product(basis.vectors, 0, basis.shape[0], embedding));
  const order = Array.from(similarity.keys()).sort((a, b) => similarity[b] - similarity[a] || a - b);
  return ages.ages_days[0] + order.slice(0, TOP).sort((a, b) => a - b)[TOP >> 1];
}

/** Cosine of two embeddings; a page checks it against golden.json before it trusts an execution provider. */
export function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { dot += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return dot / Math.sqrt(aa * bb);
}
