// What the page tells: quietly to a screen reader and in a corner, or as a notice with a way on.

const SHOWN_SECONDS = 2.5;
let timer = 0;

/** Says something that went well. */
export function tell(text) {
  const status = document.querySelector("#status");
  status.textContent = text;
  status.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => status.classList.remove("shown"), SHOWN_SECONDS * 1000);
}

/** Says something to a screen reader alone. */
export function announce(text) {
  document.querySelector("#status").textContent = text;
}

/** Says what went wrong; `again` is called by the notice's button. */
export function notify(error, again) {
  if (error.name === "AbortError") return;
  const notice = document.querySelector("#notice");
  notice.querySelector("span").textContent = error.message;
  notice.querySelector("button").onclick = () => {
    notice.hidden = true;
    again();
  };
  notice.hidden = false;
}
