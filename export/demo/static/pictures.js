// Pictures as pixels: decoding a file in the page, drawing in the page and in its worker.

const MOST_MEGAPIXELS = 50; // as in `make predict`

/**
 * A picture file as a bitmap: pixels as they are stored, without colour management, and as in `make predict` with the
 * colours that transparency hides. A browser without WebCodecs leaves the transparency, which is black once painted.
 */
export async function bitmapOf(blob) {
  const stored = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  if (!globalThis.VideoFrame) return stored;
  const opaque = new VideoFrame(stored, { timestamp: 0, alpha: "discard" });
  stored.close();
  return createImageBitmap(opaque).finally(() => opaque.close());
}

/** Decode a picture file; one that is too large is refused before it is decoded. */
export async function decode(blob) {
  const unreadable = () => { throw new Error("this browser cannot read it as a picture"); };
  const image = new Image(), url = URL.createObjectURL(blob); // it knows its size from the header
  await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject, src: url }))
    .finally(() => URL.revokeObjectURL(url)).catch(unreadable);
  const megapixels = (image.naturalWidth * image.naturalHeight) / 1e6;
  if (megapixels > MOST_MEGAPIXELS) throw new Error(`${Math.ceil(megapixels)} megapixels, at most ${MOST_MEGAPIXELS} are read`);
  return bitmapOf(blob).catch(unreadable);
}

/** Draw a picture in its own size, over black: what a canvas showed before must not shine through. */
export function paint(context, picture) {
  const { canvas } = context, { width, height } = picture;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
}
