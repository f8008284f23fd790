// The service worker, which keeps the page for visits without a network.

const SCRIPT = new URL("sw.js", location.href).href;

/** The worker that controls the page; not that of a page in a folder above, which controls a first visit. */
function controller() {
  const worker = navigator.serviceWorker.controller;
  return worker?.scriptURL === SCRIPT ? worker : null;
}

/** Register the service worker, without which the page needs a network; wait up to 3 s until the first one controls it. */
export async function keepOffline() {
  if (!navigator.serviceWorker) return;
  const controlled = new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", () => { if (controller()) resolve(); });
  });
  const registration = await navigator.serviceWorker.register("sw.js").catch(() => null);
  // An active worker that does not control the page will not: the visitor asked for a load without it (Shift+Reload).
  const comes = registration && !registration.active && !controller();
  if (comes) await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 3000))]);
}
