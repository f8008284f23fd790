// The page: loads the worker, offers frames to it, shows what it answers.
import { askedEngine, engineOf, fillEngine, showFacts } from "./engine.js";
import { fetchListed, fillSamples, openDocuments } from "./files.js";
import { OwnClasses } from "./labels.js";
import { PixelSize } from "./ruler.js";
import { linesOf, savePicture, saveTable } from "./save.js";
import { decode, paint } from "./pictures.js";
import { Live, cameraStream, release, screenStream, sortFiles, sourceError, watchDrops } from "./sources.js";
import { ClassCards, GrowthChart, clearAnswers, drawHistory, fillDevices, showAge, speedText } from "./view.js";

const $ = (id) => document.getElementById(id);
const MOST_READINGS = 5000, MOST_FAILURES = 3, SPOKEN_MS = 2500;
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const demo = await fetch("demo.json").then((response) => response.json()).catch(() => null);
if (!demo) {
  refuse("demo.json cannot be read. Serve the folder over http(s), or build the page again");
  throw new Error("demo.json cannot be read");
}
const cores = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
let engine = askedEngine(demo.variants, cores);
let worker = null, ready = null, working = null; // `working`: the engine that passed its self-test
let pending = null, queue = [], late = false, again = false, frozen = false, number = 0, dropped = 0;
let still = null, shown = null; // a picture file; source and seconds of the picture on the canvas
let last = null, failures = 0, readings = [], spokenAt = 0; // `last`: the answers on the page; the picture's own unless one is pending
let source = 0; // counts what was asked for: what arrives for an older source is dropped
let saving = false; // a picture is to be saved, once the frame that it shows is answered
let region = null; // part of a live picture that is read: x, y, width, height as shares of its size
const frame = $("frame"), video = $("video");
const cards = new ClassCards($("classes")), chart = new GrowthChart($("chart"), demo.chart);
const live = new Live(video, onLiveFrame, () => {
  stopLive();
  notice(`${$("source-name").textContent}: the browser or the device ended it.`);
});
const size = new PixelSize(reread, (part) => { setRegion(part); setFrozen(false); reread(); });
const own = new OwnClasses(demo, (message) => worker.postMessage(message));

function notice(text) {
  Object.assign($("notice"), { textContent: text, hidden: !text });
}

// --- the engine: the worker; it must pass its self-test before it answers ---

function startEngine() {
  worker?.terminate();
  if (pending || live.running) clear();
  [ready, pending, failures] = [null, null, 0];
  $("loading").hidden = false;
  own.wait(true);
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => handlers[data.kind](data);
  worker.onerror = (event) => onRefused({ text: event.message || "the worker could not start" });
  worker.postMessage({ kind: "start", demo, first: !working, ...engine });
}

function onProgress({ loaded, total }) {
  onStage({ text: "Loading the student" });
  $("progress").value = loaded / total;
  $("bytes").textContent = `${megabytes(loaded)} of ${megabytes(total)} MB`;
}

const onStage = ({ text }) => { $("stage-text").textContent = text; };

function onReady(facts) {
  [ready, working] = [facts, engine];
  for (const id of ["loading", "refused"]) $(id).hidden = true;
  showFacts(demo, engine, facts);
  $("age-card").hidden = !facts.hasAges;
  own.onReady();
  fillEngine(engine, cores, demo.variants);
  document.body.dataset.state = "ready";
  if (still || shown || live.running) reread();
  else if (!queue.length && demo.samples.length) showSample(demo.samples[0], source); // asks for no new source
  pump();
}

function onRefused({ text }) {
  worker.terminate();
  const other = working ?? (engine.runtime === "wasm" ? engine : engineOf(demo.variants, "wasm", engine.threads));
  if (engine !== other) {
    notice(`${text}. ${working ? "The previous runtime stays in use" : "ONNX Runtime with WebAssembly is used instead"}.`);
    engine = other;
    startEngine();
    return;
  }
  ready = null;
  refuse(text);
}

function refuse(text) {
  for (const id of ["loading", "refused"]) $(id).hidden = id === "loading";
  $("refused-text").textContent = `${text}.`;
  document.body.dataset.state = "refused";
}

const handlers = {
  progress: onProgress, stage: onStage, ready: onReady, refused: onRefused, answer: onAnswer, failed: onFailed,
  labelProgress: (data) => own.onProgress(data), unlabelled: (data) => own.onFailed(data),
  labelled: (data) => { own.onLabelled(data); spokenAt = 0; reread(); },
};

$("engine").addEventListener("change", () => {
  engine = engineOf(demo.variants, $("runtime").value, Number($("threads").value), $("weights").value);
  notice("");
  startEngine();
});

// --- reading: one frame at a time; a live frame that comes meanwhile is dropped, images wait ---

function send(input, facts) {
  pending = { id: ++number, started: performance.now(), time: new Date(), pixelSize: size.value, ...facts };
  const transfer = input instanceof Blob ? [] : [input];
  worker.postMessage({ kind: "read", id: pending.id, frame: input, pixelSize: pending.pixelSize, everyAge: $("every-age").checked }, transfer);
}

/** Keep the picture that is being read: frozen, measured or saved, it is the one that was answered. */
function keep(picture, facts) {
  paint(frame.getContext("2d"), picture);
  shown = facts;
  if (!ready) clear();
}

async function onLiveFrame() {
  if (!ready || frozen) return;
  if (pending) {
    if (late) dropped++;
    late = true;
    return;
  }
  late = false;
  pending = { id: -1 }; // taken, until the bitmap is there
  const seconds = video.currentTime, begun = source;
  try {
    const { videoWidth: wide, videoHeight: high } = video, [x, y, w, h] = region ?? [0, 0, 1, 1];
    const bitmap = await createImageBitmap(video, x * wide, y * high, Math.max(1, w * wide), Math.max(1, h * high));
    pending = null;
    if (!live.running || !ready || begun !== source) {
      bitmap.close();
      return pump();
    }
    keep(bitmap, { source: $("source-name").textContent, seconds: seconds.toFixed(3) });
    send(bitmap, shown);
  } catch {
    pending = null; // the video ended between two frames
    pump();
  }
}

function pump() {
  if (!ready || pending) return;
  const next = queue.shift();
  if (next) showStill(next);
  else if (again) reread();
  else if (late && live.running) onLiveFrame();
}

async function showStill(item) {
  still = item;
  pending = { id: -1 };
  try {
    const bitmap = await decode(item.blob);
    if (still === item) keep(bitmap, { source: item.name });
    bitmap.close();
  } catch (error) {
    notice(`${item.name}: ${error.message}.`);
    saving = false;
    if (still === item) still = null;
  }
  pending = null;
  if (still !== item) return pump(); // another source came meanwhile
  name(item.name);
  reread();
}

/** Read the picture once more; of a live source the frame that it shows now. */
async function reread() {
  const moving = live.running && !frozen;
  again = Boolean(pending) && !moving;
  if (moving) return onLiveFrame(); // a paused video, or a screen on which nothing moves, gives no further frame
  if (!ready || pending) return;
  if (still) send(still.blob, { source: still.name });
  else if (shown) { // a live source's frame, frozen or left by Stop
    pending = { id: -1 };
    const bitmap = await createImageBitmap(frame);
    pending = null;
    if (ready) send(bitmap, shown);
  }
}

function onAnswer(answer) {
  if (answer.id !== pending?.id) return;
  const at = performance.now();
  last = { ...pending, ...answer, at, milliseconds: at - pending.started };
  [pending, failures] = [null, 0];
  readings.push(last);
  if (readings.length > MOST_READINGS) readings.shift();
  show();
  if (saving) save();
  pump();
}

function onFailed({ id, text }) {
  if (id !== pending?.id) return;
  [pending, saving] = [null, false];
  clear();
  notice(`${still?.name ?? "This frame"}: ${text}.`);
  if (++failures < MOST_FAILURES) return pump();
  working = null; // another runtime is tried
  onRefused({ text });
}

/** The picture has no answers, and none is on its way. */
function clear() {
  last = null;
  clearAnswers(cards, chart, shown?.source);
}

function show() {
  cards.show(last.classes);
  showAge(chart, last, ready.hasAges, last.pixelSize);
  frame.setAttribute("aria-label", `${last.source}. ${linesOf(last).join(". ")}`);
  for (const id of ["save-picture", "save-table"]) $(id).disabled = false;
  document.body.dataset.readings = Number(document.body.dataset.readings ?? 0) + 1;
}

/** Announce the latest answers; of a live source now and then. */
function speak() {
  const words = linesOf(last).join(". "), now = performance.now();
  if (now - spokenAt < SPOKEN_MS || $("spoken").textContent === words) return;
  $("spoken").textContent = words;
  spokenAt = now;
}

setInterval(() => {
  drawHistory($("history"), $("legend"), readings);
  if (!readings.length) return;
  if (last) speak();
  $("speed").textContent = speedText(readings, live.running && !frozen, dropped);
}, 250);

// --- sources ---

function name(text) {
  Object.assign($("source-name"), { textContent: text, hidden: !text });
}

function stopLive() {
  if (live.running) live.stop();
  setFrozen(false);
  setRegion(null);
  for (const id of ["stop", "play", "crop", "devices", "video"]) $(id).hidden = true;
  frame.hidden = false;
  $("freeze").disabled = true;
  document.body.dataset.live = "";
  late = false;
}

/** Forget the former source; returns the new one's number. */
function newSource() {
  [still, queue, again] = [null, [], false];
  size.forget();
  return ++source;
}

/** Show a video, a camera or a screen. The former source stays until the user has allowed it and it plays. */
async function startLive(kind, label, ask) {
  const own = ++source;
  notice("");
  try {
    const given = await ask();
    if (own !== source) return release(given);
    stopLive();
    await live.show(given);
    if (own !== source) return stopLive(); // another source was asked for before this one played
  } catch (error) {
    if (own === source) notice(`${label}: ${sourceError(error)}`);
    return;
  }
  newSource();
  dropped = 0;
  name(label);
  if (!ready) clear();
  for (const id of ["stop", "crop", "play"]) $(id).hidden = id === "play" && kind !== "video";
  showLive();
  if (kind === "camera") fillDevices(live);
  $("play").textContent = "Pause";
  $("freeze").disabled = false;
  document.body.dataset.live = kind;
  onLiveFrame();
}

function take(files) {
  const { images, videos, others } = sortFiles(files), [film, ...further] = images.length ? [null, ...videos] : videos;
  if (film) startLive("video", film.name, () => film);
  else if (images.length) {
    showPictures();
    queue = images.map((blob) => ({ blob, name: blob.name || "pasted picture" }));
    pump();
  }
  const names = (list) => list.map((file) => file.name).join(", "), told = [];
  if (further.length) told.push(`${names(further)}: left out; open each video alone.`);
  if (others.length) told.push(`${names(others)}: neither a picture nor a video.`);
  if (told.length) notice(told.join(" "));
}

function showPictures() {
  stopLive();
  notice("");
  return newSource();
}

const pictures = new Map();
const fetched = (file) => fetchListed(file, demo.files[file]);
const unfetched = (error) => notice(`${error.message}.`);
async function showSample(sample, own = showPictures()) {
  const blob = await pictures.get(sample.file).catch(unfetched);
  if (!blob || own !== source) return;
  size.set(sample.pixel_size_mm, "Stated by the sample.");
  queue = [{ blob, name: `Sample, simulated: ${sample.title}` }];
  pump();
}

$("open").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { take($("files").files); $("files").value = ""; });
const openCamera = (device) => startLive("camera", "Camera", () => cameraStream(device));
$("camera").addEventListener("click", () => openCamera());
$("device").addEventListener("change", () => {
  stopLive(); // phones open one camera at a time
  openCamera($("device").value);
});
$("screen").addEventListener("click", () => startLive("screen", "Screen", screenStream));
$("stop").addEventListener("click", () => {
  stopLive();
  $("open").focus(); // Stop is hidden now
});
$("play").addEventListener("click", () => {
  if (video.paused) video.play(); else video.pause();
  $("play").textContent = video.paused ? "Play" : "Pause";
});
for (const [id, present] of [["camera", navigator.mediaDevices?.getUserMedia], ["screen", navigator.mediaDevices?.getDisplayMedia]]) $(id).hidden = !present;
watchDrops($("drop"), take);

function setFrozen(value) {
  frozen = value;
  $("freeze").setAttribute("aria-pressed", value);
  showLive();
}
/** Of a live source the picture moves, except where a frozen or a cropped frame is shown. */
function showLive() {
  if (live.running) [video.hidden, frame.hidden] = [frozen || region !== null, !frozen && region === null];
}
function setRegion(value) {
  region = value;
  $("crop").setAttribute("aria-pressed", value !== null);
  showLive();
}
$("freeze").addEventListener("click", () => {
  size.end();
  setFrozen(!frozen);
  if (!frozen) reread(); // a video paused meanwhile shows another frame
});

// --- pixel size and crop ---

$("every-age").addEventListener("change", reread);
$("measure").addEventListener("click", () => {
  if (!shown) return;
  if (live.running) setFrozen(true);
  size.measure(frame);
});
$("crop").addEventListener("click", () => {
  size.end();
  if (region || !shown) {
    setRegion(null);
    setFrozen(false); // the frozen picture may be the cropped one
    return reread();
  }
  setFrozen(true);
  size.crop(frame);
});

function save() {
  saving = false;
  savePicture(frame, last, demo.model.slice(0, 12));
}
$("save-picture").addEventListener("click", () => {
  saving = true;
  if (!pending) save();
});
$("save-table").addEventListener("click", () => {
  saveTable(readings);
  if (readings.length === MOST_READINGS) notice(`The table holds the latest ${MOST_READINGS} readings.`);
});

navigator.serviceWorker?.register("sw.js").catch(() => {}); // without it the page needs a network
startEngine();
fillSamples(demo.samples, pictures, fetched, showSample);
openDocuments(fetched, unfetched);
