"use strict";
// "/" goes to the search field; a page that says data-refresh is read again, and what has changed in it replaced.
addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.querySelector("header input")?.focus();
  }
});
const seconds = Number(document.querySelector("main")?.dataset.refresh);
if (seconds > 0) {
  setInterval(async () => {
    const main = document.querySelector("main");
    if (document.hidden || main.contains(document.activeElement) || String(getSelection())) return;
    try {
      const answer = await fetch(location.href);
      if (!answer.ok || answer.redirected) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      if (fresh) main.replaceChildren(...fresh.childNodes);
    } catch {
      // The process has ended, or is away for a moment; the page stays as it is.
    }
  }, seconds * 1000);
}
