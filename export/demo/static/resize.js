// From a frame of any size to the model's input: black square, antialiased resize, planar floats.
// An exact port of Pillow's 8-bit resampling (libImaging/Resample.c), which training and evaluation use.

const BITS = 22; // fixed-point digits of Pillow's 8-bit coefficients: 32 - 8 - 2

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
 * The model's input of a frame.
 * @param rgba pixels, row by row, 4 bytes each; alpha is ignored
 * @param kernel "bicubic" or "bilinear"
 * @returns Float32Array [3, size, size], 0 to 255
 */
export function toInput(rgba, width, height, size, kernel) {
  const side = Math.max(width, height);
  const left = (side - width) >> 1, top = (side - height) >> 1; // an odd pixel goes right and below
  const places = cachedTaps(side, size, kernel);
  const channels = isGray(rgba) ? 1 : 3;
  const output = new Float32Array(3 * size * size), half = 1 << (BITS - 1);
  const rows = new Uint8Array(height * size); // one channel, resized horizontally; rows of the bars are zero
  for (let channel = 0; channel < channels; channel++) {
    for (let x = 0; x < size; x++) {
      const { first, weights } = places[x];
      const from = Math.max(first, left), to = Math.min(first + weights.length, left + width);
      for (let y = 0; y < height; y++) {
        let sum = half, place = 4 * (y * width + from - left) + channel;
        for (let source = from; source < to; source++, place += 4) sum += rgba[place] * weights[source - first];
        rows[y * size + x] = clip(sum);
      }
    }
    for (let y = 0; y < size; y++) {
      const { first, weights } = places[y];
      const from = Math.max(first, top), to = Math.min(first + weights.length, top + height);
      for (let x = 0; x < size; x++) {
        let sum = half;
        for (let source = from; source < to; source++) sum += rows[(source - top) * size + x] * weights[source - first];
        output[(channel * size + y) * size + x] = clip(sum);
      }
    }
  }
  if (channels === 1) for (const channel of [1, 2]) output.copyWithin(channel * size * size, 0, size * size);
  return output;
}
