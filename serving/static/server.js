// Requests to the server: with the token where it asks for one, and again while it is busy.

const MOST_WAITS = 30;
const LONGEST_WAIT = 30; // seconds
const TOKEN = "token"; // in the storage of this tab

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let signingIn = null;

export const token = () => sessionStorage.getItem(TOKEN);

/** Fetches a path of this server; returns the Response of a success, or throws Refused (or the signal's AbortError). */
export async function ask(path, { signal, ...options } = {}) {
  for (let waits = 0; ;) {
    const used = token();
    const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (waits++ >= 3) throw new Refused("The server does not answer.", 0);
      await pause(waits, signal);
      continue;
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      if (token() === used) await signIn(used !== null);
    } else if (answer.status === 503 && waits++ < MOST_WAITS) {
      await pause(Math.min(Number(answer.headers.get("Retry-After")) || 1, LONGEST_WAIT), signal);
    } else {
      if (answer.status === 404) window.dispatchEvent(new Event("missing")); // the version may have been replaced
      throw new Refused(await said(answer), answer.status);
    }
  }
}

export const askJson = async (path, options) => (await ask(path, options)).json();

async function said(answer) {
  try {
    const { error } = await answer.json();
    if (error) return String(error);
  } catch {
    // Not JSON: the status has to do.
  }
  return `The server answered ${answer.status} ${answer.statusText}`.trim() + ".";
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });
}

function signIn(wasWrong) {
  signingIn ??= new Promise((resolve, reject) => {
    const dialog = document.querySelector("#sign-in");
    const field = document.querySelector("#token");
    if (wasWrong) document.querySelector("#sign-in-said").textContent = "That token was refused. Try another one.";
    field.value = "";
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        signingIn = null;
        if (!field.value) return reject(new Refused("A token is needed to go on.", 401));
        sessionStorage.setItem(TOKEN, field.value);
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return signingIn;
}
