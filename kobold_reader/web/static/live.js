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
  const endAnswer = (sentence) => {
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

  onceThere(() => {
    if (document.querySelector("[data-searching]")) awaitSearch();
  });
})();
