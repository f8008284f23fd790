// Draws answers: class cards, the growth chart, the strip of the last 60 seconds.
import { ageText, headCircumference } from "./answers.js";

const SPACE = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const percent = (value) => `${Math.round(100 * value)} %`;

function make(name, text = "", ...classes) {
  const element = document.createElement(name);
  element.textContent = text;
  element.classList.add(...classes);
  return element;
}

/** Make an element of an SVG. */
export function draw(name, values, text = "") {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** Cards of the classifications; they are built once for each set of labels and then updated. */
export class ClassCards {
  constructor(parent) {
    Object.assign(this, { parent, cards: new Map() });
  }

  card({ name, title, labels }) {
    const article = make("article"), heading = make("h2", title), answer = make("p", "–", "answer"), list = make("ul", "", "bars");
    const bars = labels.map((label, index) => {
      const item = make("li"), bar = make("span", "", "bar"), value = make("span", "", "value");
      bar.append(make("i", "", `class-${index % 8}`));
      item.append(make("span", label), bar, value);
      list.append(item);
      return { item, fill: bar.firstChild, value };
    });
    article.append(heading, answer, list);
    this.parent.append(article);
    this.cards.set(name, { article, answer, bars, labels });
    return this.cards.get(name);
  }

  show(classes) {
    const shown = new Set(classes.map(({ name }) => name));
    for (const [name, { article }] of this.cards) article.hidden = !shown.has(name);
    for (const one of classes) {
      let card = this.cards.get(one.name);
      if (card?.labels.join("\n") !== one.labels.join("\n")) { // new, or the visitor's labels are others
        card?.article.remove();
        card = this.card(one);
      }
      const none = one.rejected;
      card.answer.textContent = none ? "none of these" : `${one.answer} `;
      card.answer.classList.toggle("none", none);
      if (!none) card.answer.append(make("small", percent(one.probabilities[one.best])));
      one.probabilities.forEach((value, index) => {
        const { item, fill, value: text } = card.bars[index];
        fill.style.width = `${100 * value}%`;
        text.textContent = percent(value);
        item.classList.toggle("best", index === one.best && !none);
      });
    }
  }
}

const WEEKS = [14, 40], MILLIMETRES = [60, 360], BOX = { left: 38, right: 412, top: 10, bottom: 214 };
const across = (weeks) => BOX.left + ((weeks - WEEKS[0]) / (WEEKS[1] - WEEKS[0])) * (BOX.right - BOX.left);
const up = (mm) => BOX.bottom - ((mm - MILLIMETRES[0]) / (MILLIMETRES[1] - MILLIMETRES[0])) * (BOX.bottom - BOX.top);

/** The WHO chart of the head circumference, with the estimated age and its interval. */
export class GrowthChart {
  constructor(svg, curves) {
    Object.assign(this, { svg, curves });
    const weeks = Array.from({ length: 53 }, (_, index) => WEEKS[0] + index / 2);
    const line = (centile) => weeks.map((week) => `${across(week)},${up(headCircumference(curves[centile], week))}`);
    const [low, median, high] = Object.keys(curves).sort((a, b) => a - b);
    this.centiles = { low, median, high };
    const grid = [];
    for (let week = 16; week <= 40; week += 4) {
      grid.push(draw("path", { d: `M${across(week)} ${BOX.top}V${BOX.bottom}`, class: "grid" }));
      grid.push(draw("text", { x: across(week), y: BOX.bottom + 15, "text-anchor": "middle" }, week));
    }
    for (let mm = 100; mm <= 350; mm += 50) {
      grid.push(draw("path", { d: `M${BOX.left} ${up(mm)}H${BOX.right}`, class: "grid" }));
      grid.push(draw("text", { x: BOX.left - 6, y: up(mm) + 4, "text-anchor": "end" }, mm));
    }
    this.interval = draw("rect", { y: BOX.top, height: BOX.bottom - BOX.top, class: "interval", visibility: "hidden" });
    this.marker = draw("circle", { r: 6, class: "marker", visibility: "hidden" });
    svg.replaceChildren(
      ...grid, this.interval,
      draw("polygon", { points: [...line(low), ...line(high).reverse()].join(" "), class: "centiles" }),
      draw("polyline", { points: line(median).join(" "), class: "median" }), this.marker,
      draw("text", { x: (BOX.left + BOX.right) / 2, y: 246, "text-anchor": "middle" }, "weeks"),
      draw("text", { x: BOX.left + 6, y: BOX.top + 12 }, "head circumference, mm"),
    );
  }

  show(age) {
    for (const mark of [this.interval, this.marker]) mark.setAttribute("visibility", "hidden");
    this.svg.setAttribute("aria-label", "WHO growth chart of the head circumference");
    if (!age) return;
    const weeks = age.days / 7, expected = (centile) => Math.round(headCircumference(this.curves[centile], weeks));
    this.marker.setAttribute("cx", across(weeks));
    this.marker.setAttribute("cy", up(headCircumference(this.curves[this.centiles.median], weeks)));
    this.marker.removeAttribute("visibility");
    if (age.low !== null) {
      this.interval.setAttribute("x", across(age.low / 7));
      this.interval.setAttribute("width", Math.max(1, across(age.high / 7) - across(age.low / 7)));
      this.interval.removeAttribute("visibility");
    }
    const { low, median, high } = this.centiles;
    this.expected = `The WHO chart expects a head circumference of ${expected(median)} mm (${expected(low)} to ${expected(high)}) at this age.`;
    this.svg.setAttribute("aria-label", `WHO growth chart. Age ${ageText(age.days)}. ${this.expected}`);
  }
}

/** Remove the answers: the picture has none. */
export function clearAnswers(cards, chart, source) {
  cards.show([]);
  chart.show(null);
  $("age").textContent = "–";
  for (const id of ["age-text", "spoken"]) $(id).textContent = "";
  $("frame").setAttribute("aria-label", source ? `${source}. No answers` : "No picture yet");
  $("save-picture").disabled = true;
}

/** The card of the age: its text says why there is none. */
export function showAge(chart, { age, brain, noRow }, hasAges, pixelSize) {
  $("age-card").hidden = !hasAges;
  chart.show(age);
  $("age").textContent = age ? ageText(age.days) : "–";
  const text = [];
  if (noRow) text.push(`The export's age table has no row for ${noRow} mm, the pixel spacing of the student's input.`);
  else if (!age) text.push(brain || pixelSize === null ? "Needs the pixel size of the picture." : "The plane is not the brain.");
  else {
    if (age.low !== null) text.push(`${ageText(age.low)} to ${ageText(age.high)}; such intervals hold the age of ${percent(age.coverage)} of patients.`);
    text.push(chart.expected);
  }
  $("age-text").textContent = text.join(" ");
}

const SECONDS = 60;

/** The strip of the last 60 seconds: one tick a reading, its colour the plane, its height the probability. */
export function drawHistory(canvas, legend, readings) {
  const style = getComputedStyle(document.documentElement);
  const colour = (index) => style.getPropertyValue(index < 0 ? "--muted" : `--class-${index % 8}`);
  const width = canvas.clientWidth, height = 72, scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale)) Object.assign(canvas, { width: Math.round(width * scale), height: height * scale });
  const context = canvas.getContext("2d"), now = performance.now();
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = style.getPropertyValue("--muted");
  for (let ago = 0; ago <= SECONDS; ago += width < 500 ? 30 : 15) {
    const x = width * (1 - ago / SECONDS);
    context.textAlign = ago === 0 ? "right" : ago === SECONDS ? "left" : "center";
    context.fillText(ago ? `${ago} s ago` : "now", x, height - 2);
  }
  const recent = readings.filter(({ at }) => now - at < 1000 * SECONDS), counts = new Map(), room = height - 16;
  recent.forEach(({ at, classes: [plane] }, place) => {
    const key = plane.rejected ? -1 : plane.best, x = width * (1 - (now - at) / (1000 * SECONDS));
    const until = place + 1 < recent.length ? recent[place + 1].at : now; // a reading holds until the next, at most one second
    const wide = Math.max(2, (Math.min(until - at, 1000) / (1000 * SECONDS)) * width);
    const tall = room * plane.probabilities[plane.best];
    context.fillStyle = colour(key);
    context.fillRect(x, room - tall, wide, tall);
    const name = plane.rejected ? "none of these" : plane.answer, own = plane.rejected ? "none" : `class-${plane.best % 8}`;
    counts.set(key, { name, own, count: (counts.get(key)?.count ?? 0) + 1 });
  });
  const shares = [...counts.values()].sort((a, b) => b.count - a.count)
    .map(({ name, own, count }) => ({ name, own, share: percent(count / recent.length) }));
  const text = shares.map(({ name, share }) => `${name} ${share}`).join(", ");
  if (legend.dataset.text === text) return;
  legend.dataset.text = text;
  canvas.setAttribute("aria-label", text ? `Share of readings: ${text}` : "No readings yet");
  legend.replaceChildren(...shares.map(({ name, own, share }) => {
    const entry = make("span", `${name} ${share}`);
    entry.prepend(make("i", "", own));
    return entry;
  }));
}

const RECENT = 120;

/** Frames per second of a live source, and latency of the latest readings. */
export function speedText(readings, live, dropped) {
  const recent = readings.slice(-RECENT), now = performance.now();
  const times = recent.map(({ milliseconds }) => milliseconds).sort((a, b) => a - b);
  const quantile = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))].toFixed(0);
  const rate = readings.filter(({ at }) => now - at < 2000).length / 2;
  return `${live ? `${rate.toFixed(1)} frames/s, ${dropped} dropped; ` : ""}latency ${quantile(0.5)} ms (p50), ${quantile(0.95)} ms (p95)`;
}

/** Let the user choose between several cameras and capture cards; their names are known once one is allowed. */
export async function fillDevices(live) {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const used = live.stream?.getVideoTracks()[0].getSettings().deviceId;
  $("device").replaceChildren(...found.map(({ label, deviceId }) => new Option(label, deviceId, false, deviceId === used)));
  $("devices").hidden = found.length < 2 || !live.stream;
}
