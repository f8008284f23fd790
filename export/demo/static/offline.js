// The service worker, which keeps the page for visits without a network.

const SCRIPT = new URL("sw.js", location.href).href;

/** The worker that controls the page; not that of a page in a folder above, which controls a first visit. */
function controller() {
  const worker = navigator.serviceWorker.controller;
  return worker?.scriptURL === SCRIPT ? worker : null;
}

/** Register the service worker, and wait up to 3 s until the first one controls the page. Without one nothing is kept. */
export async function keepOffline({ files }) {
  if (!navigator.serviceWorker) return;
  const controlled = new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", () => { if (controller()) resolve(); });
  });
  const registration = await navigator.serviceWorker.register("sw.js").catch(() => null);
  // An active worker that does not control the page will not: the visitor asked for a load without it (Shift+Reload).
  const comes = registration && !registration.active && !controller();
  if (comes) await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 3000))]);
  const hashes = Object.values(files).map(({ sha256 }) => sha256);
  controller()?.postMessage({ hashes });
}
