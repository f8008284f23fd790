// Where frames come from: files, a video, a camera, a screen. Live frames are offered latest-first.

const VIDEO = /^video\//, IMAGE = /^image\//;

export class Live {
  /**
   * A live source shown in `video`.
   * @param onFrame called for every frame that the browser shows; it decides whether to read it
   * @param onEnd called when the camera or the screen ends by itself
   */
  constructor(video, onFrame, onEnd) {
    Object.assign(this, { video, onFrame, onEnd, stream: null, url: null, generation: 0 });
  }

  /** Show a stream or a file; rejects when it cannot be played, or another is shown before it plays. */
  async show(source) {
    this.stop();
    const own = this.generation, { video } = this;
    if (source instanceof MediaStream) {
      this.stream = video.srcObject = source;
      source.getVideoTracks()[0].addEventListener("ended", () => { if (this.stream === source) this.onEnd(); });
    } else {
      this.url = video.src = URL.createObjectURL(source);
      video.loop = true;
    }
    try {
      await video.play();
    } catch (error) {
      if (own === this.generation) this.stop();
      throw error;
    }
    const next = () => {
      if (own !== this.generation) return;
      video.requestVideoFrameCallback(next);
      this.onFrame();
    };
    video.requestVideoFrameCallback(next);
  }

  get running() {
    return Boolean(this.stream || this.url);
  }

  stop() {
    this.generation++;
    release(this.stream);
    if (this.url) URL.revokeObjectURL(this.url);
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.srcObject = null;
    Object.assign(this, { stream: null, url: null });
  }
}

/** Ask the user for a camera or a capture card. */
export function cameraStream(deviceId) {
  const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
  return navigator.mediaDevices.getUserMedia({ video: { ...which, width: { ideal: 1280 }, height: { ideal: 720 } }, audio: false });
}

export const screenStream = () => navigator.mediaDevices.getDisplayMedia({ video: true, audio: false });

/** End a stream; a file has nothing to end. */
export function release(source) {
  for (const track of source?.getTracks?.() ?? []) track.stop();
}

/** Sort dropped, picked or pasted files: images, videos, and those that are neither. */
export function sortFiles(files) {
  const all = [...files];
  const images = all.filter(({ type }) => IMAGE.test(type)), videos = all.filter(({ type }) => VIDEO.test(type));
  return { images, videos, others: all.filter((file) => !images.includes(file) && !videos.includes(file)) };
}

/** Call `take` with the files of every drop and paste; show `cover` while a drag hovers. */
export function watchDrops(cover, take) {
  let depth = 0;
  const hover = (change) => { depth = Math.max(0, depth + change); cover.hidden = depth === 0; };
  addEventListener("dragenter", (event) => { event.preventDefault(); hover(1); });
  addEventListener("dragleave", () => hover(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    hover(-depth);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  });
}

/** A sentence for an error of a camera, a screen or a video. */
export function sourceError(error) {
  const known = {
    NotAllowedError: "Access was denied.", NotFoundError: "There is none.", OverconstrainedError: "It is no longer there.",
    NotReadableError: "It is in use by another program, or the system does not share it.", NotSupportedError: "This browser cannot play the video.",
  };
  return known[error.name] ?? (error.message || String(error));
}
