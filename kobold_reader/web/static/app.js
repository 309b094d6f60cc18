// Keys, the large view, ticked pages, and the page that is being read again. Every view works without this script.
"use strict";

const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const between = (low, value, high) => Math.min(high, Math.max(low, value));

// One of our own pages as a document, or null. The policy lets no script turn the text that `fetch` gives into one.
function fetched(address, form) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open(form ? "POST" : "GET", address);
    request.responseType = "document";
    request.onload = () => done(request.status === 200 ? request : null);
    request.onerror = () => done(null);
    request.send(form);
  });
}

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
  // After the way back, and after "More", the address names the entry where the list begins.
  const first = one(":target [data-hit]") ?? hits.at(by > 0 ? 0 : -1);
  const next = at < 0 ? first : hits[between(0, at + by, hits.length - 1)];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
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
  ArrowRight: () => follow("[data-next]") || stepOn(1),
  ArrowLeft: () => follow("[data-previous]") || stepOn(-1),
  ArrowDown: () => stepOn(1),
  ArrowUp: () => stepOn(-1),
  n: () => follow("[data-next-hit]"),
  p: () => follow("[data-previous-hit]"),
  e: () => follow("[data-begin-edit]"),
  z: () => follow("[data-zoom]"),
  r: () => follow('[data-rotate] [value="90"]'),
  R: () => follow('[data-rotate] [value="270"]'),
  x: () => tick(),
  y: () => follow("[data-right]"),
  t: () => follow("[data-take]:focus") || follow("[data-take]"),
  Escape: () => follow("[data-back]"),
};

// After a line was taken, the next one that differs has the focus; browsers move it once more as they come to the line.
addEventListener("load", () => {
  const taken = location.hash.startsWith("#line-") && one(location.hash);
  if (!taken) return;
  const follows = (button) => taken.compareDocumentPosition(button) & Node.DOCUMENT_POSITION_FOLLOWING;
  all("[data-take]").find(follows)?.focus();
});

function stepOn(by) {
  return document.activeElement.matches("[data-hit]") && step(by);
}

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
  const act = (viewer?.open && VIEWER_KEYS[event.key]) || KEYS[event.key];
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

// The passage that was found is scrolled into view, in the text and on the picture.
if (one("[data-sheet] img") && one("mark.passage") && !location.hash) {
  const bringIntoSight = () => {
    for (const part of [one("mark.passage"), one(".lines .passage")]) {
      const box = part?.getBoundingClientRect();
      if (box && (box.top < 0 || box.bottom > innerHeight)) part.scrollIntoView({ block: "center" });
    }
  };
  one("[data-sheet] img").decode().then(bringIntoSight, bringIntoSight);
}

// The line under the pointer is also lit in its other place: in the text or on the picture.
const spread = one(".spread");
if (spread && !one("[data-edit]")) {
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
  if (!picture.isConnected) return; // said already
  const sentence = document.createElement("span");
  sentence.className = "nothing";
  if (picture.closest(".sheet")) {
    const answer = await fetch(picture.src);
    const text = answer.ok ? "" : await answer.text();
    sentence.textContent = text || "The picture cannot be shown.";
    picture.closest("a").replaceWith(sentence);
    one("[data-unlock]")?.toggleAttribute("hidden", answer.status !== 423);
  } else {
    sentence.textContent = "no picture";
    picture.parentElement.querySelector(".lines")?.remove();
    picture.replaceWith(sentence);
  }
}

function watch(pictures) {
  for (const picture of pictures) {
    picture.addEventListener("error", () => sayWhy(picture), { once: true });
    if (picture.complete && !picture.naturalWidth && picture.loading !== "lazy") sayWhy(picture);
  }
}
watch(all('img[src^="/image/"]'));

// ── the wall: the next part comes when the end of this one is near ───────────────────────────────────────

const more = one("[data-more]");
if (more) {
  // Fetched ahead: the pictures of this part will keep all connections busy.
  let coming = fetched(more.firstElementChild.href);
  const near = new IntersectionObserver(([seen]) => seen.isIntersecting && hangMore(), { rootMargin: "1500px" });

  async function hangMore() {
    near.disconnect();
    const page = (await coming)?.response;
    const part = page?.querySelector(".wall");
    if (!part) return; // the link is still there
    const next = page.querySelector("[data-more] a");
    if (next) coming = fetched(next.href);
    const before = all(".wall").at(-1);
    const year = part.querySelector(".year");
    const last = [...before.querySelectorAll(".year")].at(-1);
    if (year && (!last || year.textContent === last.textContent)) year.remove();
    // A part begins with the photos that did not fill the last row of the one before.
    const top = before.lastElementChild.offsetTop;
    part.prepend(...[...before.children].filter((photo) => photo.offsetTop === top));
    before.after(part);
    watch(part.querySelectorAll('img[src^="/image/"]'));
    if (!next) return more.remove();
    more.firstElementChild.href = next.href;
    near.observe(more);
  }
  near.observe(more);
}

// ── the large view ───────────────────────────────────────────────────────────────────────────────

const sheet = one("[data-sheet]");
const viewer = sheet && document.createElement("dialog");
const MOST_ZOOM = 12;
let zoom = 1; // 1: the whole picture fits
let x = 0; // where its middle is, from the middle of the window
let y = 0;


function place() {
  const stage = sheet.querySelector(".stage");
  const leaf = stage.querySelector("a");
  const picture = stage.querySelector("img");
  if (!viewer.open || !picture?.naturalWidth) return;
  const ratio = picture.naturalWidth / picture.naturalHeight;
  const width = zoom * Math.min(stage.clientWidth, stage.clientHeight * ratio);
  const height = width / ratio;
  const room = (length, seen) => Math.max(0, (length - seen) / 2);
  x = between(-room(width, stage.clientWidth), x, room(width, stage.clientWidth));
  y = between(-room(height, stage.clientHeight), y, room(height, stage.clientHeight));
  leaf.style.width = `${width}px`;
  leaf.style.height = `${height}px`;
  leaf.style.transform = `translate(-50%, -50%) translate(${x}px, ${y}px)`;
  if (width * devicePixelRatio > picture.naturalWidth * 1.1) sharpen(picture);
}

// More pixels are fetched when they can be seen.
function sharpen(picture) {
  if (!picture.src.includes("/large")) return;
  const sharp = new Image();
  sharp.src = picture.src.replace("/large", "/full");
  sharp.decode().then(() => {
    if (picture.src.includes("/large")) picture.src = sharp.src;
  }, () => {});
}

// Zooms so that what is under a point of the window stays there.
function zoomTo(value, atX = innerWidth / 2, atY = innerHeight / 2) {
  const box = sheet.querySelector(".stage").getBoundingClientRect();
  const growth = between(1, value, MOST_ZOOM) / zoom;
  x -= (atX - box.left - box.width / 2 - x) * (growth - 1);
  y -= (atY - box.top - box.height / 2 - y) * (growth - 1);
  zoom *= growth;
  place();
  return true;
}

function pan(byX, byY, orElse) {
  if (zoom === 1) return orElse ? orElse() : false;
  x += byX * innerWidth * 0.2;
  y += byY * innerHeight * 0.2;
  place();
  return true;
}

const VIEWER_KEYS = {
  "+": () => zoomTo(zoom * 1.5),
  "=": () => zoomTo(zoom * 1.5),
  "-": () => zoomTo(zoom / 1.5),
  0: () => zoomTo(1),
  ArrowLeft: () => pan(1, 0, () => follow("[data-previous]")),
  ArrowRight: () => pan(-1, 0, () => follow("[data-next]")),
  ArrowUp: () => pan(0, 1),
  ArrowDown: () => pan(0, -1),
  f: () => follow("[data-screen]"),
  z: () => follow("[data-close]"),
  Escape: () => follow("[data-close]"),
};

function dress() {
  zoom = 1;
  x = y = 0;
  sheet.querySelector("[data-zoom]")?.setAttribute("tabindex", "-1");
  sheet.querySelector("img")?.decode().then(place, () => {});
  place();
}

function enlarge() {
  sheet.classList.add("large");
  viewer.append(sheet);
  viewer.showModal();
  dress();
  one("[data-close]").focus({ preventScroll: true });
}

function shut() {
  viewer.close();
  spread.prepend(sheet);
  sheet.classList.remove("large");
  for (const field of sheet.querySelectorAll("[name=large]")) field.remove();
  const leaf = sheet.querySelector("[data-zoom]");
  leaf?.removeAttribute("style");
  leaf?.removeAttribute("tabindex");
  leaf?.focus({ preventScroll: true });
  const address = new URL(location);
  address.searchParams.delete("large");
  history.replaceState(null, "", address);
}

// Shows another page, or this one anew, without leaving the large view and the full screen.
async function show(address, form) {
  const answer = await fetched(address, form);
  const page = answer?.response;
  if (!page?.querySelector("[data-sheet]")) return location.assign(address);
  for (const part of [".place", ".read", "[data-sheet]"]) one(part).replaceChildren(...page.querySelector(part).childNodes);
  document.title = page.title;
  const now = new URL(answer.responseURL);
  now.searchParams.set("large", 1);
  history.replaceState(null, "", now);
  watch(sheet.querySelectorAll("img"));
  dress();
  if (!sheet.contains(document.activeElement)) one("[data-close]").focus({ preventScroll: true });
}

if (sheet) {
  viewer.className = "viewer";
  viewer.ariaLabel = "Large view";
  sheet.after(viewer);
  viewer.addEventListener("cancel", (event) => {
    event.preventDefault();
    follow("[data-close]");
  });
  addEventListener("resize", place);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a, button");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const scale = link.dataset.scale;
    if (link.matches("[data-zoom], [data-open]")) {
      event.preventDefault();
      if (!viewer.open) enlarge();
    } else if (viewer.open && link.matches("[data-close]") && new URL(link.href).pathname === location.pathname) {
      event.preventDefault();
      shut();
    } else if (viewer.open && link.matches("[data-previous], [data-next], [data-previous-hit], [data-next-hit]")) {
      if (one("[data-edit]")) return;
      event.preventDefault();
      show(link.href);
    } else if (link.matches("[data-screen]")) {
      if (document.fullscreenElement) document.exitFullscreen();
      else sheet.requestFullscreen();
    } else if (scale) zoomTo(scale === "0" ? 1 : zoom * 1.5 ** scale);
  });

  sheet.addEventListener("submit", (event) => {
    if (!viewer.open || one("[data-edit]")) return;
    event.preventDefault();
    show(event.target.action, new URLSearchParams(new FormData(event.target, event.submitter)));
  });

  sheet.addEventListener("wheel", (event) => {
    if (!viewer.open || !event.target.closest(".stage")) return;
    event.preventDefault();
    zoomTo(zoom * Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), event.clientX, event.clientY);
  }, { passive: false });

  sheet.addEventListener("dblclick", (event) => {
    if (viewer.open && event.target.closest(".stage")) zoomTo(zoom > 1 ? 1 : 3, event.clientX, event.clientY);
  });
  sheet.addEventListener("dragstart", (event) => {
    if (viewer.open) event.preventDefault();
  });

  // One pointer moves the picture, two also zoom it. Where all of it is seen, a finger's swipe goes on to the next one.
  const pointers = new Map();
  let begun = null;
  const middle = () => {
    const points = [...pointers.values()];
    const sum = points.reduce((one, other) => ({ x: one.x + other.x, y: one.y + other.y }));
    const [first, last] = [points[0], points.at(-1)];
    return { x: sum.x / points.length, y: sum.y / points.length, apart: Math.hypot(first.x - last.x, first.y - last.y) };
  };
  sheet.addEventListener("pointerdown", (event) => {
    if (!viewer.open || !event.target.closest(".stage") || event.button) return;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    begun = pointers.size === 1 && zoom === 1 && event.pointerType === "touch" ? event.clientX : null;
    event.target.closest(".stage").setPointerCapture(event.pointerId);
  });
  sheet.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = middle();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const after = middle();
    x += after.x - before.x;
    y += after.y - before.y;
    if (before.apart && after.apart) zoomTo((zoom * after.apart) / before.apart, after.x, after.y);
    else place();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    sheet.addEventListener(kind, (event) => {
      if (!pointers.delete(event.pointerId) || begun === null || zoom !== 1 || kind !== "pointerup") return;
      const moved = event.clientX - begun;
      begun = null;
      if (Math.abs(moved) > 60) follow(moved > 0 ? "[data-previous]" : "[data-next]");
    });
  }

  if (sheet.classList.contains("large")) enlarge();
}

// ── ticked pages ─────────────────────────────────────────────────────────────────────────────────

function tick() {
  const box = document.activeElement.closest("li")?.querySelector(".tick");
  box?.click();
  return Boolean(box);
}

const ticked = one("[data-ticked]");
if (ticked) {
  // They stay ticked in this tab while one looks at a page, or at more of the list.
  const list = new URLSearchParams(location.search);
  for (const name of ["n", "sort"]) list.delete(name);
  const name = `ticked ${list}`;
  const kept = new Set(JSON.parse(sessionStorage.getItem(name)));
  const count = () => {
    const number = all(".tick:checked").length;
    ticked.textContent = number === 1 ? "1 ticked page" : `${number || ""} ticked pages`;
  };
  document.addEventListener("change", ({ target }) => {
    if (!target.matches(".tick")) return;
    if (target.checked) kept.add(target.value);
    else kept.delete(target.value);
    sessionStorage.setItem(name, JSON.stringify([...kept]));
    count();
  });
  addEventListener("pageshow", () => {
    for (const box of all(".tick")) box.checked = kept.has(box.value);
    count();
  });
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
