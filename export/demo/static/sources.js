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

  async camera(deviceId) {
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
    const wanted = { ...which, width: { ideal: 1280 }, height: { ideal: 720 } };
    await this.show(await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false }));
  }

  async screen() {
    await this.show(await navigator.mediaDevices.getDisplayMedia({ video: true, audio: false }));
  }

  async show(stream) {
    this.stop();
    this.stream = stream;
    this.video.srcObject = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => { if (this.stream === stream) this.onEnd(); });
    await this.begin();
  }

  async file(file) {
    this.stop();
    this.url = URL.createObjectURL(file);
    this.video.src = this.url;
    this.video.loop = true;
    await this.begin();
  }

  async begin() {
    const own = ++this.generation, { video } = this;
    await video.play();
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
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.url) URL.revokeObjectURL(this.url);
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.srcObject = null;
    Object.assign(this, { stream: null, url: null });
  }
}

/** Sort dropped, picked or pasted files: images, the first video, and names of those that are neither. */
export function sortFiles(files) {
  const all = [...files];
  const images = all.filter(({ type }) => IMAGE.test(type)), videos = all.filter(({ type }) => VIDEO.test(type));
  return { images, video: videos[0] ?? null, others: all.filter((file) => !images.includes(file) && !videos.includes(file)) };
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
    NotAllowedError: "Access was denied.", NotFoundError: "No camera was found.",
    NotReadableError: "The camera is in use by another program.", NotSupportedError: "This browser cannot play the video.",
  };
  return known[error.name] ?? String(error.message ?? error);
}
