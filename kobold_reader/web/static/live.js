// What goes on while a page is open. Loaded beside a page that is still being sent. Every view works without this script.
"use strict";

(() => {
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  const onceThere = (act) => {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", act);
    else act();
  };

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
