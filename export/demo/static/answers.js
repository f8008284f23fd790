// What the page makes of the arithmetic in reader.mjs: "none of these", the WHO chart, ages as text.
import { logitsOf, softmax } from "./reader.mjs";

/** Probabilities of a head's labels, and the answer: a label, or "none" where the lead is below `noneBelow`, which is `rejected`. */
export function classify(embedding, head, noneBelow) {
  const logits = logitsOf(embedding, head), top = Math.max(...logits), best = logits.indexOf(top);
  const lead = top - logits.reduce((a, b) => a + b, 0) / logits.length;
  const rejected = noneBelow !== undefined && lead < noneBelow; // a label may be called "none"
  return { labels: head.labels, probabilities: softmax(logits), best, rejected, answer: rejected ? "none" : head.labels[best] };
}

/** Head circumference in mm of the WHO fetal growth chart at an age in weeks. */
export function headCircumference(coefficients, weeks) {
  return Math.exp(coefficients.reduce((sum, value, power) => sum + value * weeks ** power, 0));
}

/** "27 w 3 d". */
export const ageText = (days) => `${Math.floor(days / 7)} w ${days % 7} d`;
