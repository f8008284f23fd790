// Pictures as pixels: decoding a file in the page, drawing in the page and in its worker.

/** For createImageBitmap: pixels as they are stored, without colour management. */
export const STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const MOST_MEGAPIXELS = 50; // as in `make predict`

/** Decode a picture file; one that is too large is refused before it is decoded. */
export async function decode(blob) {
  const unreadable = () => { throw new Error("this browser cannot read it as a picture"); };
  const image = new Image(), url = URL.createObjectURL(blob); // it knows its size from the header
  await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject, src: url }))
    .finally(() => URL.revokeObjectURL(url)).catch(unreadable);
  const megapixels = (image.naturalWidth * image.naturalHeight) / 1e6;
  if (megapixels > MOST_MEGAPIXELS) throw new Error(`${Math.ceil(megapixels)} megapixels, at most ${MOST_MEGAPIXELS} are read`);
  return createImageBitmap(blob, STORED).catch(unreadable);
}

/** Draw a picture in its own size, over black: what a canvas showed before must not shine through. */
export function paint(context, picture) {
  const { canvas } = context, { width, height } = picture;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
}
