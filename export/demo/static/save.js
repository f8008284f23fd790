// Saved results, made on this device: a picture with its answers, and the readings as a table.
import { ageText } from "./answers.js";

const CAUTION = "Research software. Not a medical device.";

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stamp = () => new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");

/** The answers of a reading as lines of text, as `make predict --annotate` writes them. */
export function linesOf({ classes, age }) {
  const lines = classes.map(({ title, answer, rejected, best, probabilities }) => rejected
    ? `${title}: none of these` : `${title}: ${answer} (${Math.round(100 * probabilities[best])} %)`);
  if (age) lines.push(`Age: ${ageText(age.days)}${age.low === null ? "" : ` (${ageText(age.low)} to ${ageText(age.high)})`}`);
  return lines;
}

/** Save the frame with its answers below it. */
export async function savePicture(frame, reading, model) {
  const width = Math.max(640, frame.width), shown = frame.height * (width / frame.width);
  const line = Math.round(width / 32), lines = [...linesOf(reading), `${reading.source}, ${reading.time.toISOString()}`, `Student ${model}. ${CAUTION}`];
  const canvas = Object.assign(document.createElement("canvas"), { width, height: Math.round(shown + line * (1.45 * lines.length + 1)) });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(frame, 0, 0, width, shown);
  context.fillStyle = "#fff";
  context.font = `${line}px system-ui, sans-serif`;
  lines.forEach((text, index) => context.fillText(text, line, shown + line * (1.45 * index + 1.5), width - 2 * line));
  download(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), `sonodistill-${stamp()}.png`);
}

const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  // A leading = + - @ of a file name is a formula to a spreadsheet.
  const safe = /^[=+\-@\t]/.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

/** Headers of columns. That of a class, which is keyed "key\nlabel", gets the ending "_class" where its name is taken. */
function headers(columns) {
  const taken = new Set(columns.filter((name) => !name.includes("\n")));
  return columns.map((name) => {
    let header = name.replace("\n", "_");
    if (header === name) return name;
    while (taken.has(header)) header += "_class";
    taken.add(header);
    return header;
  });
}

/** Readings as CSV; the columns are those of `make predict`, with time, seconds of the video, and latency. */
export function table(readings) {
  const rows = readings.map(({ source, time, seconds, classes, age, pixelSize, milliseconds }) => {
    const row = { image: source, time: time.toISOString(), seconds };
    for (const { key, labels, probabilities, best, answer } of classes) {
      Object.assign(row, { [key]: answer, [`${key}_probability`]: probabilities[best] });
      labels.forEach((label, index) => { row[`${key}\n${label}`] = probabilities[index]; });
    }
    return Object.assign(row, {
      ga_days: age?.days, ga: age ? ageText(age.days) : null, ga_low_days: age?.low, ga_high_days: age?.high,
      ga_coverage: age?.coverage, ga_spacing_mm: age?.spacing, pixel_size_mm: pixelSize, latency_ms: milliseconds.toFixed(1),
    });
  });
  const columns = [...new Set(rows.flatMap(Object.keys))];
  return [headers(columns), ...rows.map((row) => columns.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

export function saveTable(readings) {
  download(new Blob([table(readings)], { type: "text/csv" }), `sonodistill-${stamp()}.csv`);
}
