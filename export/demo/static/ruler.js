// The pixel size, and the ruler that measures it.
import { draw } from "./view.js";

const NEEDED = "Needed for the age.", POINTS = "Click two points whose distance you know.";
const RANGES = { "pixel-size": [0.001, 10], millimetres: [0.1, 500] }; // of the fields, in mm
const $ = (id) => document.getElementById(id);

const isAllowed = (id, number) => RANGES[id][0] <= number && number <= RANGES[id][1];
const allowed = (id) => `${RANGES[id].join(" to ")} mm are allowed`;

/** The number in a field, with a decimal point or comma; null without one that is allowed. */
function typedIn(id) {
  const number = Number($(id).value.replace(",", "."));
  return isAllowed(id, number) ? number : null;
}

/** The pixel size in mm: typed, stated by a sample, or measured. Its ruler also marks the part of a picture to read. */
export class PixelSize {
  /**
   * @param changed called when the visitor has typed or measured one
   * @param cropped called with an area: x, y, width, height as shares of the picture's size
   */
  constructor(changed, cropped) {
    Object.assign(this, { cropped, ruler: new Ruler($("ruler"), (points) => this.marked(points)) });
    this.set(null);
    // Not "change", which does not fire where a text that `forget` read is edited back.
    const read = () => { if (this.read()) changed(); };
    $("pixel-size").addEventListener("blur", read);
    $("scale").addEventListener("submit", (event) => { event.preventDefault(); read(); }); // Enter
    $("cancel").addEventListener("click", () => this.end());
    $("distance").addEventListener("submit", (event) => {
      event.preventDefault();
      const millimetres = typedIn("millimetres"), size = Number((millimetres / this.span).toPrecision(4));
      if (millimetres === null) return this.ask(`${allowed("millimetres")}.`);
      if (!isAllowed("pixel-size", size)) return this.ask(`A pixel would be ${size} mm: ${allowed("pixel-size")}.`);
      this.set(size, `Measured: ${millimetres} mm are ${this.span.toFixed(1)} pixels.`);
      this.end();
      changed();
    });
  }

  set(value, text = NEEDED) {
    Object.assign(this, { value, typed: false, seen: value === null ? "" : String(value) });
    $("pixel-size").value = this.seen;
    this.say(text);
  }

  /** Read the field; returns whether something new is typed. */
  read() {
    const text = $("pixel-size").value, value = typedIn("pixel-size"), wrong = value === null && text.trim() !== "";
    if (text === this.seen) return false;
    Object.assign(this, { value, typed: value !== null, seen: text });
    this.say(this.typed ? "Typed." : wrong ? `Not used: ${allowed("pixel-size")}.` : NEEDED, wrong);
    return true;
  }

  say(text, wrong = false) {
    this.text = $("scale-text").textContent = text;
    $("pixel-size").setAttribute("aria-invalid", wrong);
  }

  /** Another picture: a typed size stays; one of a sample or a measurement belongs to its picture. */
  forget() {
    this.end();
    this.read(); // what is typed, though the field was not left yet
    if (!this.typed) this.set(null);
  }

  measure({ width, height }) {
    this.end();
    if (this.value === null) this.set(null); // without what was not used
    $("scale-text").textContent = POINTS;
    this.ruler.begin(width, height, false);
  }

  crop({ width, height }) {
    this.ruler.begin(width, height, true);
  }

  marked(points) {
    if (points === null) return this.end();
    const [a, b] = points;
    if (this.ruler.area) {
      this.end();
      const { width, height } = this.ruler;
      return this.cropped([Math.min(a.x, b.x) / width, Math.min(a.y, b.y) / height, Math.abs(a.x - b.x) / width, Math.abs(a.y - b.y) / height]);
    }
    this.span = Math.hypot(a.x - b.x, a.y - b.y);
    $("distance").hidden = false;
    $("millimetres").value = "";
    this.ask("");
  }

  /** Ask for the distance; `wrong` is why the last answer was not used. */
  ask(wrong) {
    $("distance-text").textContent = wrong;
    $("millimetres").setAttribute("aria-invalid", wrong !== "");
    $("millimetres").focus();
  }

  end() {
    const inside = ["ruler", "distance"].some((id) => $(id).contains(document.activeElement));
    this.ruler.end();
    $("distance").hidden = true;
    $("scale-text").textContent = this.text;
    if (inside) $(this.ruler.area ? "crop" : "measure").focus(); // what had the focus is hidden now
  }
}

/** Two points on the picture: ends of a known distance, or corners of an area. By pointer, or by arrow keys and Enter. */
class Ruler {
  /**
   * @param svg overlay that covers the picture
   * @param done called with the two points in pixels of the picture, or null when cancelled
   */
  constructor(svg, done) {
    Object.assign(this, { svg, done, points: [], cursor: { x: 0, y: 0 }, width: 1, height: 1 });
    svg.addEventListener("pointermove", (event) => { if (this.points.length < 2) this.move(this.place(event)); });
    svg.addEventListener("pointerdown", (event) => { event.preventDefault(); this.move(this.place(event)); this.set(); });
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  begin(width, height, area) {
    Object.assign(this, { width, height, area, points: [], cursor: { x: width / 2, y: height / 2 } });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.removeAttribute("hidden");
    this.svg.focus();
    this.draw();
  }

  end() {
    this.svg.setAttribute("hidden", "");
  }

  place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return { x: point.x, y: point.y };
  }

  move({ x, y }) {
    this.cursor = { x: Math.min(this.width, Math.max(0, x)), y: Math.min(this.height, Math.max(0, y)) };
    this.draw();
  }

  set() {
    if (this.points.length === 2) this.points = [];
    this.points.push({ ...this.cursor });
    this.draw();
    if (this.points.length < 2) return;
    const [a, b] = this.points;
    if (Math.hypot(a.x - b.x, a.y - b.y) < 1) this.points.pop(); // a double click
    else this.done(this.points);
  }

  key(event) {
    const step = event.shiftKey ? 10 : 1, { x, y } = this.cursor;
    const moved = {
      ArrowLeft: { x: x - step, y }, ArrowRight: { x: x + step, y }, ArrowUp: { x, y: y - step }, ArrowDown: { x, y: y + step },
    }[event.key];
    if (moved && this.points.length < 2) this.move(moved);
    else if (event.key === "Enter") this.set();
    else if (event.key === "Escape") this.done(null);
    else return;
    event.preventDefault();
  }

  draw() {
    const shown = this.points.length === 2 ? this.points : [...this.points, this.cursor];
    const arm = this.width / 40;
    const marks = shown.map(({ x, y }) => draw("path", { d: `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}` }));
    const [a, b] = shown;
    const line = b && (this.area ? `M${a.x} ${a.y}H${b.x}V${b.y}H${a.x}Z` : `M${a.x} ${a.y}L${b.x} ${b.y}`);
    if (b) marks.unshift(draw("path", { d: line, class: "line" }));
    this.svg.replaceChildren(...marks);
  }
}
