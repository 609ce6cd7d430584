// The list of metrics: the chosen row fills the panel, and its place is in the address. Without it a row's name opens
// the metric's page.
"use strict";
(() => {
  const WAIT_MS = 120;
  let timer = 0;
  const fill = (row) => {
    const link = row.querySelector("a.name");
    if (!link || !document.getElementById("one") || getComputedStyle(document.getElementById("one")).display === "none") return;
    const page = new URL(link.href);
    const name = page.searchParams.get("name") || decodeURIComponent(page.pathname.split("/").slice(3).join("/"));
    const here = new URL(location.href);
    here.searchParams.set("at", decodeURIComponent(page.pathname.split("/")[2]) + "/" + name);
    history.replaceState(history.state, "", here);
    page.searchParams.set("panel", "1");
    htmx.ajax("GET", page.pathname + page.search, { target: "#one", swap: "outerHTML" });
  };
  let shown = (document.querySelector("#rows > tr.sel") || {}).id;
  addEventListener("chosen", (event) => {
    const row = event.target;
    if (row.id === shown) return;
    shown = row.id;
    clearTimeout(timer);
    // Moving on through the list asks for the last one only.
    timer = setTimeout(() => fill(row), WAIT_MS);
  });
  addEventListener("click", (event) => {
    const row = event.target.closest("#rows > tr[id]");
    if (row && !event.target.closest("a, button")) row.querySelector("a.name").focus({ preventScroll: true });
  });
  // A form of the panel comes back to this list as it is.
  addEventListener("submit", (event) => {
    const next = event.target.closest("#one") && event.target.querySelector("[name=next]");
    if (next) next.value = location.pathname + location.search;
  });
})();
