// What surrounds the page: the service worker, model card and licences.

/** Start the service worker and wait until it sees what the page fetches; without one the page works all the same. */
export async function keepOffline({ files }) {
  if (!navigator.serviceWorker) return;
  navigator.serviceWorker.register("sw.js").catch(() => {});
  const controlled = navigator.serviceWorker.controller ?? new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
  });
  await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 3000))]);
  const hashes = Object.values(files).map(({ sha256 }) => sha256);
  navigator.serviceWorker.controller?.postMessage({ hashes });
}

/** Fetch the documents, and show the one whose button is pressed. */
export function openDocuments(fetched) {
  const dialog = document.getElementById("document"), text = document.getElementById("document-text");
  for (const button of document.querySelectorAll("[data-document]")) {
    const content = fetched(button.dataset.document).then((response) => response.text());
    button.addEventListener("click", async () => {
      text.textContent = (await content).replace(/^---\n[\s\S]*?\n---\n/, ""); // without the card's metadata
      dialog.showModal();
    });
  }
}
