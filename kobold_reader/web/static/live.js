// What goes on while a page is open. Loaded beside a page that is still being sent. Every view works without this script.
"use strict";

(() => {
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  const onceThere = (act) => {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", act);
    else act();
  };

  document.documentElement.classList.add("scripts");

  // ── an answer that is being written ────────────────────────────────────────────────────────────

  // The page itself is the stream: to stop loading it ends the answer on the server.
  let hasEnded = false;
  const endAnswer = (sentence) => {
    hasEnded = true;
    const box = document.querySelector("[data-answering]");
    if (!box || document.querySelector("[data-done]")) return;
    box.classList.remove("running");
    box.querySelector("p").textContent = sentence;
    box.querySelector("[data-stop]")?.remove();
  };

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-stop]")) return;
    window.stop();
    endAnswer("Stopped.");
  });

  // A browser says nothing to a page that was cut off while it came.
  const watchAnswer = async () => {
    while (document.readyState === "loading" && !hasEnded) {
      await sleep(2000);
      try {
        await fetch("/ready");
      } catch {
        endAnswer("The answer was cut off: the search page does not answer any more.");
      }
    }
  };

  watchAnswer();
  onceThere(() => endAnswer("The answer was cut off: the connection ended."));

  // ── a search whose pages by meaning are still to come ──────────────────────────────────────────

  const awaitSearch = async () => {
    for (;;) {
      try {
        const answer = await fetch("/ready");
        if ((await answer.json()).ready) break;
      } catch {
        await sleep(1000);
      }
    }
    location.reload();
  };

  // ── a run that goes on ─────────────────────────────────────────────────────────────────────────

  const watchRun = async (box) => {
    const show = (name, text) => {
      const place = box.querySelector(`[data-run="${name}"]`);
      if (place && place.textContent !== text) place.textContent = text;
    };
    for (;;) {
      await sleep(1000);
      try {
        const answer = await fetch("/run");
        const now = await answer.json();
        show("sentence", now.sentence);
        show("counts", now.counts);
        const bar = box.querySelector("progress");
        if (bar && now.total) {
          bar.max = now.total;
          bar.value = now.done;
        }
        if (!now.running) break;
      } catch {
        show("sentence", "the search page does not answer any more");
      }
    }
    location.reload();
  };

  // ── files can be dropped anywhere on the page: the browser would leave it to show them ──────

  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => {
      const box = document.querySelector("[data-send] input[type=file]");
      if (!box || !event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      if (kind === "drop") box.files = event.dataTransfer.files;
    });
  }

  // ── files that are too much at once are not sent at all ────────────────────────────────────────

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("[data-send]");
    if (!form) return;
    const files = form.querySelector("input[type=file]");
    const size = [...files.files].reduce((sum, file) => sum + file.size, 0);
    const isTooLarge = size > Number(files.dataset.most);
    form.querySelector("[data-too-large]").hidden = !isTooLarge;
    if (isTooLarge) event.preventDefault();
    else form.querySelector("button").textContent = "Sending…";
  });

  onceThere(() => {
    const box = document.querySelector("[data-running]");
    if (box) watchRun(box);
    if (document.querySelector("[data-searching]")) awaitSearch();
  });
})();
