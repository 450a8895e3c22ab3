// Pictures by their path: few requested at once, the latest thousand kept.

import { ask } from "./server.js";

const PARALLEL = 6; // browsers open no more connections to one host
const MOST_KEPT = 1000;

const waiting = [];
const kept = new Map(); // path: { url, blob }
let running = 0;

/**
 * Loads a picture.
 *
 * @param {string} path - of the server.
 * @param {{signal?: AbortSignal, urgent?: boolean}} options - urgent: before all that wait.
 * @returns {Promise<{url: string, blob: Blob}>} url: for an image element.
 */
export function load(path, { signal, urgent = false } = {}) {
  if (kept.has(path)) {
    const picture = kept.get(path);
    kept.delete(path);
    kept.set(path, picture); // now the latest
    return Promise.resolve(picture);
  }
  return new Promise((resolve, reject) => {
    const job = { path, signal, resolve, reject };
    signal?.addEventListener(
      "abort",
      () => {
        const place = waiting.indexOf(job);
        if (place >= 0) waiting.splice(place, 1);
        reject(signal.reason);
      },
      { once: true },
    );
    if (urgent) waiting.unshift(job);
    else waiting.push(job);
    next();
  });
}

async function next() {
  if (running >= PARALLEL || !waiting.length) return;
  const { path, signal, resolve, reject } = waiting.shift();
  running++;
  try {
    const blob = await (await ask(path, { signal })).blob();
    resolve(keep(path, blob));
  } catch (error) {
    reject(error);
  } finally {
    running--;
    next();
  }
}

function keep(path, blob) {
  const picture = { blob, url: URL.createObjectURL(blob) };
  kept.set(path, picture);
  if (kept.size > MOST_KEPT) {
    const [oldest, { url }] = kept.entries().next().value;
    kept.delete(oldest);
    URL.revokeObjectURL(url);
  }
  return picture;
}

/** Shows a picture in an image element, unless something else is shown there in the meantime; `null`: nothing. */
export async function show(image, path, alt, options = {}) {
  image.dataset.path = path ?? "";
  image.alt = alt;
  if (path === null) {
    image.removeAttribute("src");
    return false;
  }
  const { url } = await load(path, options);
  if (image.dataset.path !== path) return false;
  image.src = url;
  return true;
}
