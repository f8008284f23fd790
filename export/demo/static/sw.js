// Service worker: keeps the page's files for the next visit, offline too. It computes nothing.
// The files of one build are installed together and used together: where the host has another build, that one is loaded
// from the network alone. A file with its hash in the address (?v=) never changes. The page's worker keeps such files, too,
// and removes those of older builds.

const BUILD = ""; // written by build.py
const FILES = `sonodistill-demo ${registration.scope}`; // those with a hash; pages on one origin share the caches
const PAGE = `${FILES} ${BUILD}`;
const fresh = (address) => fetch(address, { cache: "no-cache" });
const hex = (digest) => Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");

let current = true; // whether the page that was opened is this build

/** Fetch and keep a file; one of another build, which a host gives while a page is being uploaded, fails. */
async function keep(cache, address, hash) {
  const response = await fresh(address), content = await response.arrayBuffer();
  if (hex(await crypto.subtle.digest("SHA-256", content)) !== hash) throw new Error(`${address} is not the file of this build`);
  await cache.put(address, new Response(content, { headers: response.headers })); // a redirected one would open no page
}

/** Whether the host has this build, or cannot be asked. */
async function isCurrent() {
  const response = await fresh("demo.json").catch(() => null), kept = await caches.match("demo.json", { cacheName: PAGE });
  return !response?.ok || await response.text() === await kept?.text();
}

/** Whether a page in a folder below asks: on its first visit, until its own worker controls it. */
async function isBelow({ request, clientId }) {
  const asking = request.mode === "navigate" ? request : await clients.get(clientId);
  const { scope } = registration, folders = [scope, `${scope}ort/`]; // the runtime's threads start from ort/
  return Boolean(asking) && !folders.includes(new URL(".", asking.url).href);
}

async function answer(event) {
  const { request } = event, opens = request.mode === "navigate";
  if (await isBelow(event)) return fetch(request);
  if (new URL(request.url).searchParams.has("v")) return await caches.match(request, { cacheName: FILES }) ?? fetch(request);
  const kept = await caches.match(request, { cacheName: PAGE, ignoreSearch: true });
  if (opens) current = await isCurrent();
  if (kept && current) return kept;
  const response = await fresh(request).catch(() => null);
  if (response?.ok || !opens || !kept) return response ?? Response.error();
  current = true;
  return kept;
}

self.addEventListener("install", (event) => event.waitUntil((async () => {
  const files = await caches.open(FILES), page = await caches.open(PAGE);
  const listed = await fresh("demo.json"), demo = await listed.clone().json();
  if (demo.build !== BUILD) throw new Error("demo.json is of another build");
  const others = Object.entries(demo.files).filter(([name]) => name.startsWith("samples/") || name.endsWith(".md"));
  await Promise.all([
    page.put("demo.json", listed),
    keep(page, "./", demo.static_files["index.html"]),
    ...Object.entries(demo.static_files).map(([name, hash]) => keep(page, name, hash)),
    ...others.map(([name, { sha256 }]) => keep(files, `${name}?v=${sha256}`, sha256)),
  ]);
  await self.skipWaiting();
})()));

self.addEventListener("activate", (event) => event.waitUntil((async () => {
  const older = (await caches.keys()).filter((name) => name.startsWith(`${FILES} `) && name !== PAGE);
  await Promise.all(older.map((name) => caches.delete(name)));
  await self.clients.claim();
})()));

self.addEventListener("fetch", (event) => {
  const { method, cache } = event.request;
  if (method === "GET" && cache !== "no-store" && new URL(event.request.url).origin === location.origin) {
    event.respondWith(answer(event));
  }
});
