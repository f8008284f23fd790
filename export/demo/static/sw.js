// Service worker: keeps the page's files for the next visit, offline too. It computes nothing.
// A file with its hash in the address (?v=) never changes and comes from the cache; others come from the network first,
// so that a page that was built again is never mixed with an older one. The page's worker keeps the files that it verifies
// itself, and removes those of older builds.

const CACHE = `sonodistill-demo ${registration.scope}`; // pages on one origin share the caches
const hashOf = (request) => new URL(request.url).searchParams.get("v");
const hex = (digest) => Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Keep a response; not a file of another build, which a host gives while a page is being uploaded. */
async function keep(request, response) {
  if (!response.ok) return;
  const hash = hashOf(request);
  if (hash && hex(await crypto.subtle.digest("SHA-256", await response.clone().arrayBuffer())) !== hash) return;
  await (await caches.open(CACHE)).put(request, response);
}

/** Whether a page in a folder below asks: on its first visit, until its own worker controls it. */
async function isBelow({ request, clientId }) {
  const asking = request.mode === "navigate" ? request : await clients.get(clientId);
  const { scope } = registration, folders = [scope, `${scope}ort/`]; // the runtime's threads start from ort/
  return Boolean(asking) && !folders.includes(new URL(".", asking.url).href);
}

async function answer(event) {
  const { request } = event;
  if (await isBelow(event)) return fetch(request);
  const fixed = hashOf(request) !== null;
  const cached = () => caches.match(request, { cacheName: CACHE, ignoreSearch: !fixed });
  if (fixed) {
    const found = await cached();
    if (found) return found;
  }
  try {
    const response = await fetch(request, { cache: "no-cache" });
    event.waitUntil(keep(request, response.clone()));
    return response;
  } catch (error) {
    const found = await cached();
    if (found) return found;
    throw error;
  }
}

self.addEventListener("install", (event) => {
  // What the first visit loads before this worker controls it.
  event.waitUntil((async () => {
    const fresh = (url) => new Request(url, { cache: "no-cache" });
    const names = (await (await fetch(fresh("demo.json"))).json()).static_files;
    await (await caches.open(CACHE)).addAll(["./", "demo.json", ...names].map(fresh));
    await self.skipWaiting();
  })());
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { method, cache } = event.request;
  if (method === "GET" && cache !== "no-store" && new URL(event.request.url).origin === location.origin) {
    event.respondWith(answer(event));
  }
});
