// Texts to token ids, as an export's tokenizer.json describes it: the parts of that format which our tokenizers use.

const UNKNOWN_PART = "this student's tokenizer is not supported in the page";

/** Oniguruma's \s; JavaScript's own has U+FEFF in it and not U+0085. */
const regex = (pattern) => new RegExp(pattern.Regex.replaceAll("\\s", "\\p{White_Space}"), "gu");

/** The 256 bytes as printable characters (GPT-2's table). */
const BYTES = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  BYTES.push(String.fromCharCode(printable ? byte : next++));
}

const NORMALIZERS = {
  NFC: () => (text) => text.normalize("NFC"),
  NFKD: () => (text) => text.normalize("NFKD"),
  StripAccents: () => (text) => text.replace(/\p{M}/gu, ""),
  Lowercase: () => (text) => text.toLowerCase(),
  Replace: ({ pattern, content }) => (text) => text.replace(regex(pattern), () => content),
  Sequence: ({ normalizers }) => chain(NORMALIZERS, normalizers),
};

const SPLITTERS = { // of a list of texts
  Split: ({ pattern }) => (texts) => texts.flatMap((text) => text.match(regex(pattern)) ?? []),
  ByteLevel: () => (texts) => texts.map((text) => Array.from(new TextEncoder().encode(text), (byte) => BYTES[byte]).join("")),
  Sequence: ({ pretokenizers }) => chain(SPLITTERS, pretokenizers),
};

const MODELS = { // a word to its tokens
  /** The longest token first; a word without any is the unknown token. */
  WordPiece: ({ unk_token: unknown, continuing_subword_prefix: prefix, max_input_chars_per_word: most }, ids) => (word) => {
    const tokens = [];
    for (let from = 0; from < word.length;) {
      let to = word.length;
      const piece = () => (from ? prefix : "") + word.slice(from, to);
      while (to > from && !ids.has(piece())) to--;
      if (to === from || word.length > most) return [unknown];
      tokens.push(piece());
      from = to;
    }
    return tokens;
  },
  /** Of all neighbours the pair whose merge was learnt first is merged, until there is none. */
  BPE: ({ merges, end_of_word_suffix: suffix }) => {
    const ranks = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
    return (word) => {
      const parts = [...word];
      parts.push(parts.pop() + suffix);
      for (;;) {
        let best = Infinity, place = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank < best) [best, place] = [rank, i];
        }
        if (place < 0) return parts;
        parts.splice(place, 2, parts[place] + parts[place + 1]);
      }
    };
  },
};

function made(table, part, ...more) {
  if (!Object.hasOwn(table, part?.type)) throw new Error(`${UNKNOWN_PART} (${part?.type})`);
  return table[part.type](part, ...more);
}

function chain(table, parts) {
  const steps = parts.map((part) => made(table, part));
  return (value) => steps.reduce((result, step) => step(result), value);
}

/**
 * A function of a text: its `ids`, padded and truncated to the context; whether its end was `cut` off; and the words
 * that a vocabulary of whole words has to spell in pieces, `spelled`.
 */
export function readTokenizer({ normalizer, pre_tokenizer: splitter, model, post_processor: template, truncation, padding }) {
  const ids = new Map(Object.entries(model.vocab)), length = truncation.max_length;
  const normalise = made(NORMALIZERS, normalizer), split = made(SPLITTERS, splitter), tokens = made(MODELS, model, ids);
  const room = length - template.single.filter(({ SpecialToken }) => SpecialToken).length;
  return (text) => {
    const words = split([normalise(text.replace(/\p{Surrogate}/gu, "?"))]);
    const pieces = words.map(tokens), own = pieces.flat().map((token) => ids.get(token));
    const whole = template.single.flatMap(({ SpecialToken: special }) =>
      special ? template.special_tokens[special.id].ids : own.slice(0, room));
    return {
      ids: [...whole, ...Array(length - whole.length).fill(padding.pad_id)],
      cut: own.length > room,
      spelled: model.type === "WordPiece" ? words.filter((word, index) => pieces[index].length > 1 && /^\p{L}/u.test(word)) : [],
    };
  };
}
