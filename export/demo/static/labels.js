// The panel "Your own classes": labels that the visitor types. They go to the page's worker and nowhere else.

const $ = (id) => document.getElementById(id);
const MOST = 50, LONGEST = 100, PLACE = "{label}";

/** What is typed as labels, each once, and their prompts; or why it cannot be used. */
export function labelsOf(typed, template) {
  const labels = [...new Set(typed.split("\n").map((line) => line.trim()).filter(Boolean))];
  if (labels.length < 2) return { error: "Type at least two labels: a probability is a label's share among them." };
  if (labels.length > MOST) return { error: `These are ${labels.length} labels, at most ${MOST} can be scored.` };
  const long = labels.find((label) => label.length > LONGEST);
  if (long) return { error: `“${long.slice(0, 30)}…” has more than ${LONGEST} characters.` };
  if (!template.includes(PLACE)) return { error: `The prompt needs ${PLACE}, the place of a label.` };
  return { labels, prompts: labels.map((label) => template.replaceAll(PLACE, () => label)) };
}

export class OwnClasses {
  /**
   * @param demo What the build describes; without a text tower there is no panel.
   * @param post Sends a message to the worker.
   */
  constructor({ text, files }, post) {
    Object.assign(this, { post, asked: null });
    $("own").hidden = !text;
    if (!text) return;
    $("own-form").hidden = !text.tokenizer;
    if (!text.tokenizer) return this.say("This student's tokenizer is not supported in the page.");
    const megabytes = [text.model, text.tokenizer, text.golden].reduce((sum, name) => sum + files[name].bytes, 0) / 1e6;
    this.size = `${megabytes.toFixed(1)} MB`;
    this.say(`The first time the text tower is loaded, ${this.size}.`);
    $("own-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const { error, labels, prompts } = labelsOf($("own-labels").value, $("own-prompt").value);
      if (error) this.say(error, true);
      else this.ask({ labels, prompts });
    });
    $("own-end").addEventListener("click", () => this.ask({ labels: [], prompts: [] }));
  }

  say(text, wrong = false) {
    $("own-status").textContent = text;
    $("own-status").classList.toggle("wrong", wrong);
  }

  ask(labels) {
    this.asked = labels;
    this.wait(true);
    this.say(labels.labels.length ? "Reading the labels" : "");
    this.post({ kind: "label", ...labels });
  }

  wait(busy) {
    for (const id of ["own-score", "own-end"]) $(id).disabled = busy;
    if (!busy) $("own-progress").hidden = true;
  }

  /** A worker is ready; a new one knows no labels. */
  onReady() {
    this.wait(false);
    if (this.asked?.labels.length) this.ask(this.asked);
  }

  onProgress({ loaded, total }) {
    if (!this.asked) return; // the other files of a refused download
    Object.assign($("own-progress"), { hidden: false, value: loaded / total });
    this.say(loaded < total ? `Loading the text tower, ${(loaded / 1e6).toFixed(1)} of ${this.size}` : "Self-test of the text tower");
  }

  onLabelled({ labels, cut, spelled }) {
    this.wait(false);
    $("own-end").hidden = !labels.length;
    if (!labels.length) return this.say("");
    const remarks = [`${labels.length} labels are scored. Their probabilities are shares among these labels alone; no answer is “none of these”.`];
    if (cut.length) remarks.push(`Too long for the student, the end was cut off: ${cut.join(", ")}.`);
    if (spelled.length) remarks.push(`Not in the student's vocabulary, so it never learned their meaning: ${spelled.join(", ")}.`);
    this.say(remarks.join(" "));
  }

  onFailed({ text }) {
    this.asked = null;
    this.wait(false);
    this.say(`${text}.`, true);
  }
}
