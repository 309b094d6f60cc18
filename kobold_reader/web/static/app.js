// Keys, the large picture, and the page that is being read again. Every view works without this script.
"use strict";

const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];

// ── keys ─────────────────────────────────────────────────────────────────────────────────────────

function follow(selector) {
  const link = one(selector);
  if (link) link.click();
  return Boolean(link);
}

function step(by) {
  const hits = all("[data-hit]");
  if (!hits.length) return false;
  const at = hits.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : hits.length - 1) : Math.min(hits.length - 1, Math.max(0, at + by));
  hits[next].focus();
  hits[next].scrollIntoView({ block: "nearest" });
  return true;
}

const KEYS = {
  "/": () => {
    const box = one("#q");
    if (!box) return false;
    box.focus();
    box.select();
    return true;
  },
  j: () => follow("[data-next]") || step(1),
  k: () => follow("[data-previous]") || step(-1),
  ArrowRight: () => follow("[data-next]"),
  ArrowLeft: () => follow("[data-previous]"),
  ArrowDown: () => document.activeElement.matches("[data-hit]") && step(1),
  ArrowUp: () => document.activeElement.matches("[data-hit]") && step(-1),
  n: () => follow("[data-next-hit]"),
  p: () => follow("[data-previous-hit]"),
  e: () => follow("[data-begin-edit]"),
  z: () => follow("[data-zoom]"),
  Escape: () => (one(".sheet.large") ? follow("[data-zoom]") : follow("[data-back]")),
};

document.addEventListener("keydown", (event) => {
  const target = event.target;
  const isTyping = target.matches("input, textarea, select");
  if (target.matches("[data-edit] textarea") && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping) {
    if (event.key !== "Escape") return;
    if (!(target.matches("textarea") && follow("[data-cancel]"))) target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (act && act()) event.preventDefault();
});

// ── the search form: choosing a filter searches ────────────────────────────────────────────────────────

const ask = one("[data-ask]");
if (ask) {
  ask.addEventListener("change", (event) => {
    if (event.target.matches("select")) ask.requestSubmit();
  });
  // Empty fields stay out of the address.
  ask.addEventListener("submit", () => {
    for (const field of ask.elements) if (field.name && !field.value) field.disabled = true;
  });
  window.addEventListener("pageshow", () => {
    for (const field of ask.elements) field.disabled = false;
  });
}

// ── pictures ─────────────────────────────────────────────────────────────────────────────────────

const zoom = one("[data-zoom]");
if (zoom) {
  zoom.addEventListener("click", (event) => {
    event.preventDefault();
    const sheet = zoom.closest(".sheet");
    const picture = zoom.querySelector("img");
    const box = picture.getBoundingClientRect();
    const found = zoom.querySelector(".found, .passage")?.getBoundingClientRect();
    const toX = event.clientX || (found ? found.left + found.width / 2 : box.left + box.width / 2);
    const toY = event.clientY || (found ? found.top + found.height / 2 : box.top);
    const x = (toX - box.left) / box.width;
    const y = (toY - box.top) / box.height;
    if (sheet.classList.toggle("large")) {
      sheet.scrollLeft = x * picture.offsetWidth - sheet.clientWidth / 2;
      sheet.scrollTop = y * picture.offsetHeight - sheet.clientHeight / 2;
    }
  });
}

// The passage that was found is scrolled into view, in the text and on the picture.
if (zoom && one("mark.passage") && !location.hash) {
  const bringIntoSight = () => {
    for (const part of [one("mark.passage"), one(".lines .passage")]) {
      const box = part?.getBoundingClientRect();
      if (box && (box.top < 0 || box.bottom > innerHeight)) part.scrollIntoView({ block: "center" });
    }
  };
  zoom.querySelector("img").decode().then(bringIntoSight, bringIntoSight);
}

// The line under the pointer is also lit in its other place: in the text or on the picture.
const spread = one(".spread");
if (spread && one(".lines") && !one("[data-edit]")) {
  let lit = null;
  const light = (event) => {
    const line = event.target.closest("[data-line]")?.dataset.line ?? null;
    if (line === lit) return;
    lit = line;
    for (const part of all("[data-line]")) part.classList.toggle("lit", part.dataset.line === line);
  };
  for (const kind of ["pointerover", "pointerleave", "focusin"]) spread.addEventListener(kind, light);
}

// In place of a picture that cannot be shown: the reason.
async function sayWhy(picture) {
  const sentence = document.createElement("span");
  sentence.className = "nothing";
  if (picture.src.endsWith("/large")) {
    const answer = await fetch(picture.src);
    const text = answer.ok ? "" : await answer.text();
    sentence.textContent = text || "The picture cannot be shown.";
    picture.closest("a").replaceWith(sentence);
  } else {
    sentence.textContent = "no picture";
    picture.parentElement.querySelector(".lines")?.remove();
    picture.replaceWith(sentence);
  }
}

for (const picture of all('img[src^="/image/"]')) {
  picture.addEventListener("error", () => sayWhy(picture), { once: true });
  if (picture.complete && !picture.naturalWidth && picture.loading !== "lazy") sayWhy(picture);
}

// ── editing: leaving the page asks first ─────────────────────────────────────────────────────

const edit = one("[data-edit]");
if (edit) {
  const text = edit.querySelector("textarea");
  const before = text.defaultValue;
  let isLeaving = false;
  const grow = () => {
    text.rows = Math.max(12, text.value.split("\n").length + 2);
  };
  grow();
  text.focus();
  text.setSelectionRange(0, 0);
  text.addEventListener("input", grow);
  // The line at the caret is lit on the picture, as long as no line was added or removed.
  const lines = before.split("\n").length;
  const light = () => {
    const isCounted = text.value.split("\n").length === lines;
    const row = String(text.value.slice(0, text.selectionStart).split("\n").length - 1);
    for (const line of all(".lines polygon")) line.classList.toggle("lit", isCounted && line.dataset.row === row);
  };
  for (const kind of ["keyup", "pointerup", "input"]) text.addEventListener(kind, light);
  light();
  edit.addEventListener("submit", () => {
    isLeaving = true;
  });
  window.addEventListener("beforeunload", (event) => {
    if (!isLeaving && text.value !== before) event.preventDefault();
  });
}

// ── a page that is being read again ──────────────────────────────────────────────────────────────

const running = one("[data-running]");
if (running) {
  const doing = one("[data-doing]");
  const look = async () => {
    try {
      const answer = await fetch("/again");
      const now = await answer.json();
      doing.textContent = now.sentence;
      if (!now.running) location.reload();
      else setTimeout(look, 1000);
    } catch {
      doing.textContent = "the search page does not answer any more";
    }
  };
  setTimeout(look, 1000);
}
