// The page: loads the worker, offers frames to it, shows what it answers.
import { ageText } from "./answers.js";
import { OwnClasses } from "./labels.js";
import { Ruler } from "./ruler.js";
import { linesOf, savePicture, saveTable } from "./save.js";
import { keepOffline } from "./offline.js";
import { Live, sortFiles, sourceError, watchDrops } from "./sources.js";
import { ClassCards, GrowthChart, drawHistory, fillEngine, openDocuments, showAge, showFacts, speedText } from "./view.js";

const $ = (id) => document.getElementById(id);
const MOST_READINGS = 5000, SPOKEN_MS = 2500;
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const demo = await fetch("demo.json").then((response) => response.json()).catch(() => null);
if (!demo) {
  refuse("demo.json cannot be read. Serve the folder over http(s), or build the page again");
  throw new Error("demo.json cannot be read");
}
const asked = new URLSearchParams(location.search);
const cores = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
let engine = {
  runtime: asked.get("runtime") === "webgpu" && navigator.gpu ? "webgpu" : "wasm",
  threads: Math.min(cores, Number(asked.get("threads")) || Math.min(cores, 4)),
  weights: asked.get("weights") in demo.variants ? asked.get("weights") : Object.keys(demo.variants)[0],
};
let worker = null, ready = null, working = null; // `working`: the engine that passed its self-test
let pending = null, queue = [], late = false, again = false, frozen = false, number = 0, dropped = 0;
let still = null, last = null, readings = [], spokenAt = 0;
let region = null; // part of a live picture that is read: x, y, width, height as shares of its size
const frame = $("frame"), video = $("video");
const cards = new ClassCards($("classes")), chart = new GrowthChart($("chart"), demo.chart);
const live = new Live(video, onLiveFrame, stopLive);
const ruler = new Ruler($("ruler"), measured);
const own = new OwnClasses(demo, (message) => worker.postMessage(message));
const pixelSize = () => (Number($("pixel-size").value) > 0 ? Number($("pixel-size").value) : null);

function notice(text) {
  Object.assign($("notice"), { textContent: text, hidden: !text });
}

// --- the engine: the worker; it must pass its self-test before it answers ---

function startEngine() {
  worker?.terminate();
  [ready, pending] = [null, null];
  $("loading").hidden = false;
  own.wait(true);
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => handlers[data.kind](data);
  worker.onerror = (event) => onRefused({ text: event.message || "the worker could not start" });
  worker.postMessage({ kind: "start", demo, ...engine });
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
  fillEngine(engine, cores, Object.keys(demo.variants));
  document.body.dataset.state = "ready";
  if (still) reread();
  else if (!live.running && demo.samples.length) showSample(demo.samples[0]);
  pump();
}

function onRefused({ text }) {
  worker.terminate();
  if (working && engine !== working) { // another engine was tried
    notice(`${text}. The previous runtime stays in use.`);
    engine = working;
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
  const runtime = $("runtime").value;
  engine = { runtime, threads: Number($("threads").value), weights: runtime === "webgpu" ? "onnx-fp32" : $("weights").value };
  notice("");
  startEngine();
});

// --- reading: one frame at a time; a live frame that comes meanwhile is dropped, images wait ---

function send(input, facts) {
  pending = { id: ++number, started: performance.now(), time: new Date(), pixelSize: pixelSize(), ...facts };
  const transfer = input instanceof Blob ? [] : [input];
  worker.postMessage({ kind: "read", id: pending.id, frame: input, pixelSize: pending.pixelSize, everyAge: $("every-age").checked }, transfer);
}

/** Keep the picture that is being read: frozen, measured or saved, it is the one that was answered. */
function keep(picture) {
  const { width, height } = picture;
  if (frame.width !== width || frame.height !== height) Object.assign(frame, { width, height });
  frame.getContext("2d").drawImage(picture, 0, 0);
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
  const seconds = video.currentTime;
  try {
    const { videoWidth: wide, videoHeight: high } = video, [x, y, w, h] = region ?? [0, 0, 1, 1];
    const bitmap = await createImageBitmap(video, x * wide, y * high, Math.max(1, w * wide), Math.max(1, h * high));
    pending = null;
    if (!live.running || !ready) return;
    keep(bitmap);
    send(bitmap, { source: $("source-name").textContent, seconds: seconds.toFixed(3) });
  } catch {
    pending = null; // the video ended between two frames
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
    const bitmap = await createImageBitmap(item.blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    if (still === item) keep(bitmap);
    bitmap.close();
  } catch {
    notice(`${item.name}: this browser cannot read it as a picture.`);
    if (still === item) still = null;
  }
  pending = null;
  if (still !== item) return pump(); // another source came meanwhile
  name(item.name);
  reread();
}

/** Read the picture once more: a still one, or the frame that is frozen. */
async function reread() {
  again = Boolean((still || frozen) && pending);
  if (!ready || pending) return;
  if (still) send(still.blob, { source: still.name });
  else if (frozen && last) {
    pending = { id: -1 };
    send(await createImageBitmap(frame), { source: last.source, seconds: last.seconds });
  }
}

function onAnswer(answer) {
  if (answer.id !== pending?.id) return;
  const at = performance.now();
  last = { ...pending, ...answer, at, milliseconds: at - pending.started };
  pending = null;
  readings.push(last);
  if (readings.length > MOST_READINGS) readings.shift();
  show();
  pump();
}

function onFailed({ id, text }) {
  if (id !== pending?.id) return;
  pending = null;
  notice(`${still?.name ?? "This frame"}: ${text}`);
  pump();
}

function show() {
  cards.show(last.classes);
  showAge(chart, last, ready.hasAges, last.pixelSize);
  const words = linesOf(last).join(". ");
  frame.setAttribute("aria-label", `${last.source}. ${words}`);
  for (const id of ["save-picture", "save-table"]) $(id).disabled = false;
  if (last.at - spokenAt > SPOKEN_MS && $("spoken").textContent !== words) {
    $("spoken").textContent = words;
    spokenAt = last.at;
  }
  document.body.dataset.readings = Number(document.body.dataset.readings ?? 0) + 1;
}

setInterval(() => {
  drawHistory($("history"), $("legend"), readings);
  if (!readings.length) return;
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

function newSource() {
  stopLive();
  [still, queue, again] = [null, [], false];
  notice("");
  endRuler();
  forgetScale();
}

async function startLive(kind, label, begin) {
  newSource();
  dropped = 0;
  name(label);
  try {
    await begin();
  } catch (error) {
    stopLive();
    notice(`${label}: ${sourceError(error)}`);
    return;
  }
  for (const id of ["stop", "crop", "play"]) $(id).hidden = id === "play" && kind !== "video";
  showLive();
  if (kind === "camera") fillDevices();
  $("play").textContent = "Pause";
  $("freeze").disabled = false;
  document.body.dataset.live = kind;
}

/** Let the user choose between several cameras and capture cards; their names are known once one is allowed. */
async function fillDevices() {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const used = live.stream?.getVideoTracks()[0].getSettings().deviceId;
  $("device").replaceChildren(...found.map(({ label, deviceId }) => new Option(label, deviceId, false, deviceId === used)));
  $("devices").hidden = found.length < 2 || !live.stream;
}

function take(files) {
  const { images, video: film, others } = sortFiles(files);
  if (film && !images.length) startLive("video", film.name, () => live.file(film));
  else if (images.length) {
    newSource();
    queue = images.map((blob) => ({ blob, name: blob.name || "pasted picture" }));
    pump();
  }
  if (others.length) notice(`${others.map((file) => file.name).join(", ")}: neither a picture nor a video.`);
}

const pictures = new Map();
const fetched = (file) => fetch(`${file}?v=${demo.files[file].sha256}`);
async function showSample(sample) {
  newSource();
  const blob = await pictures.get(sample.file);
  setScale(sample.pixel_size_mm, "Stated by the sample.");
  queue = [{ blob, name: `Sample, simulated: ${sample.title}` }];
  pump();
}

async function fillSamples() {
  for (const sample of demo.samples) {
    const button = document.createElement("button"), picture = new Image();
    pictures.set(sample.file, fetched(sample.file).then((response) => response.blob()));
    picture.src = URL.createObjectURL(await pictures.get(sample.file));
    Object.assign(picture, { alt: "", width: 96, height: 72 });
    button.append(picture, sample.title);
    button.addEventListener("click", () => showSample(sample));
    const item = document.createElement("li");
    item.append(button);
    $("samples").append(item);
  }
}

$("open").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { take($("files").files); $("files").value = ""; });
const openCamera = (device) => startLive("camera", "Camera", () => live.camera(device));
$("camera").addEventListener("click", () => openCamera());
$("device").addEventListener("change", () => openCamera($("device").value));
$("screen").addEventListener("click", () => startLive("screen", "Screen", () => live.screen()));
$("stop").addEventListener("click", stopLive);
$("play").addEventListener("click", () => {
  if (video.paused) video.play(); else video.pause();
  $("play").textContent = video.paused ? "Play" : "Pause";
});
for (const [id, present] of [["camera", navigator.mediaDevices?.getUserMedia], ["screen", navigator.mediaDevices?.getDisplayMedia]]) $(id).hidden = !present;
watchDrops($("drop"), take);

function setFrozen(value) {
  frozen = value;
  $("freeze").setAttribute("aria-pressed", value);
  $("freeze").textContent = value ? "Unfreeze" : "Freeze";
  showLive();
}
/** Of a live source the picture moves, except where a frozen or a cropped frame is shown. */
function showLive() {
  if (live.running) [video.hidden, frame.hidden] = [frozen || region !== null, !frozen && region === null];
}
function setRegion(value) {
  region = value;
  $("crop").setAttribute("aria-pressed", value !== null);
  $("crop").textContent = value ? "Whole picture" : "Crop";
  showLive();
}
$("freeze").addEventListener("click", () => { endRuler(); setFrozen(!frozen); });

// --- pixel size ---

let typed = false;
function setScale(value, text) {
  $("pixel-size").value = value ?? "";
  $("scale-text").textContent = value ? text : "Needed for the age.";
  typed = false;
}
/** A typed pixel size stays; one of a sample or a measurement belongs to its picture. */
function forgetScale() {
  if (!typed) setScale(null);
}
$("pixel-size").addEventListener("input", () => {
  typed = pixelSize() !== null;
  $("scale-text").textContent = typed ? "Typed." : "Needed for the age.";
  reread();
});
$("every-age").addEventListener("change", reread);
$("scale").addEventListener("submit", (event) => event.preventDefault());
$("measure").addEventListener("click", () => {
  if (!last) return;
  if (live.running) setFrozen(true);
  $("scale-text").textContent = "Click two points whose distance you know.";
  ruler.begin(frame.width, frame.height, false);
});
$("crop").addEventListener("click", () => {
  if (region || !last) return setRegion(null);
  endRuler();
  setFrozen(true);
  ruler.begin(frame.width, frame.height, true);
});
let span = null;
function measured(points) {
  if (points === null) return endRuler();
  const [a, b] = points;
  if (ruler.area) {
    const { width, height } = frame;
    setRegion([Math.min(a.x, b.x) / width, Math.min(a.y, b.y) / height, Math.abs(a.x - b.x) / width, Math.abs(a.y - b.y) / height]);
    endRuler();
    return setFrozen(false);
  }
  span = Math.hypot(a.x - b.x, a.y - b.y);
  $("distance").hidden = false;
  $("millimetres").focus();
}
function endRuler() {
  ruler.end();
  $("distance").hidden = true;
}
$("cancel").addEventListener("click", endRuler);
$("distance").addEventListener("submit", (event) => {
  event.preventDefault();
  const millimetres = Number($("millimetres").value);
  setScale((millimetres / span).toPrecision(4), `Measured: ${millimetres} mm are ${span.toFixed(1)} pixels.`);
  endRuler();
  reread();
});

$("save-picture").addEventListener("click", () => savePicture(frame, last, demo.model.slice(0, 12)));
$("save-table").addEventListener("click", () => saveTable(readings));

await keepOffline(demo); // first, so that what is fetched once is kept
startEngine();
fillSamples();
openDocuments(fetched);
