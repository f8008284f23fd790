// The service worker, which keeps the page for visits without a network.

/** Register the service worker, and wait up to 3 s until it controls the page. Without one nothing is kept. */
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
