// The page's samples and documents: small files that are fetched at load, so that none is asked for later.

const $ = (id) => document.getElementById(id);

/** Fetch a file that the build lists. */
export async function fetchListed(file, { sha256 }) {
  const response = await fetch(`${file}?v=${sha256}`).catch(() => null);
  if (!response?.ok) throw new Error(`${file} cannot be fetched; reload the page`);
  return response.blob();
}

/** Fetch the documents, and show the one whose button is pressed; `failed` is told of one that could not be fetched. */
export function openDocuments(fetched, failed) {
  const dialog = $("document"), text = $("document-text");
  for (const button of document.querySelectorAll("[data-document]")) {
    const content = fetched(button.dataset.document).then((blob) => blob.text());
    content.catch(() => {}); // told once it is asked for
    button.addEventListener("click", () => content.then((found) => {
      text.textContent = found.replace(/^---\n[\s\S]*?\n---\n/, ""); // without the card's metadata
      dialog.showModal();
    }).catch(failed));
  }
}

/** Buttons of the samples; `pictures` gets promises of their files. */
export function fillSamples(samples, pictures, fetched, chosen) {
  for (const sample of samples) {
    const button = document.createElement("button"), picture = new Image(), item = document.createElement("li");
    pictures.set(sample.file, fetched(sample.file));
    pictures.get(sample.file).then((blob) => { picture.src = URL.createObjectURL(blob); }, () => {});
    Object.assign(picture, { alt: "", width: 96, height: 72 });
    button.append(picture, sample.title);
    button.addEventListener("click", () => chosen(sample));
    item.append(button);
    $("samples").append(item);
  }
}
