// The service worker, which keeps the page for visits without a network.

/** Register the service worker, and wait up to 3 s until the first one controls the page. Without one nothing is kept. */
export async function keepOffline({ files }) {
  if (!navigator.serviceWorker) return;
  const controlled = new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
  });
  const registration = await navigator.serviceWorker.register("sw.js").catch(() => null);
  // An active worker that does not control the page will not: the visitor asked for a load without it (Shift+Reload).
  const comes = registration && !registration.active && !navigator.serviceWorker.controller;
  if (comes) await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 3000))]);
  const hashes = Object.values(files).map(({ sha256 }) => sha256);
  navigator.serviceWorker.controller?.postMessage({ hashes });
}
