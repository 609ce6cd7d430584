// The dashboard's own script: keys, ticking ages, readouts, theme, and what htmx cannot know of the live list.
// Everything it does is also a link, a button or a form, except the keys.
"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const NBSP = "\u00a0";
  const AGE_TICK_MS = 10000;
  const SPEAK_INTERVAL_MS = 30000;

  // ---- theme and zone: cookies, so that the next page is right from its first byte
  const setCookie = (name, value) => {
    document.cookie = `${name}=${value}; Path=/; Max-Age=31536000; SameSite=Lax`;
  };
  const dark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    root.dataset.theme = dark() ? "light" : "dark";
    setCookie("theme", root.dataset.theme);
    dispatchEvent(new Event("theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme")));
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  for (const field of document.querySelectorAll("[data-zone-field]")) field.value = zone;

  // ---- ages
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
  const age = (then) => {
    const s = Math.max(1, Math.floor((Date.now() - then) / 1000));
    if (s < 60) return s + NBSP + "s";
    if (s < 3600) return Math.floor(s / 60) + NBSP + "min";
    if (s < 86400) {
      const minutes = Math.floor((s % 3600) / 60);
      return Math.floor(s / 3600) + NBSP + "h" + (minutes ? " " + minutes + NBSP + "min" : "");
    }
    return null;
  };
  const tick = (scope) => {
    for (const time of scope.querySelectorAll("time[data-age]")) {
      const text = age(Date.parse(time.dateTime));
      if (text !== null && text !== time.textContent) time.textContent = text;
    }
  };
  setInterval(() => document.hidden || tick(document), AGE_TICK_MS);

  // ---- copy buttons
  addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) navigator.clipboard.writeText(button.dataset.copy).then(() => notice("Copied."));
  });

  // ---- messages: seen, and spoken at most twice a minute
  let noticeTimer = 0;
  const notice = (text) => {
    const place = byId("notice");
    if (!place) return;
    place.textContent = text;
    clearTimeout(noticeTimer);
    noticeTimer = setTimeout(() => (place.textContent = ""), 6000);
  };
  let spokenAt = 0;
  let waiting = "";
  const speak = (text) => {
    waiting = text;
    const rest = spokenAt + SPEAK_INTERVAL_MS - Date.now();
    if (rest > 0) return void setTimeout(() => waiting && speak(waiting), rest);
    spokenAt = Date.now();
    byId("say").textContent = waiting;
    waiting = "";
  };

  // ---- the list: one current row, which keeps its place whatever else changes
  const rows = () => [...document.querySelectorAll("#rows > tr[id]:not(#empty)")];
  let currentId = (document.querySelector("#rows > tr.sel") || {}).id || null;
  const current = () => (currentId ? byId(currentId) : null);
  const choose = (row, focus = true) => {
    for (const old of document.querySelectorAll("#rows > tr.sel")) {
      old.classList.remove("sel");
      old.removeAttribute("aria-current");
    }
    if (!row) return;
    currentId = row.id;
    row.classList.add("sel");
    row.setAttribute("aria-current", "true");
    row.dispatchEvent(new Event("chosen", { bubbles: true }));
    if (focus) {
      const link = row.querySelector("a.name");
      if (link) link.focus({ preventScroll: true });
      row.scrollIntoView({ block: "nearest" });
    }
  };
  const move = (by) => {
    const all = rows();
    const at = all.indexOf(current());
    if (all.length) choose(all[at < 0 ? 0 : Math.min(Math.max(at + by, 0), all.length - 1)]);
  };
  addEventListener("focusin", (event) => {
    const row = event.target.closest("#rows > tr");
    if (row && row.id) choose(row, false);
  });

  // ---- deciding: the row greys at once, and comes back if the server refuses
  let decided = [];
  const act = (row, state) => {
    const button = row && row.querySelector(`[data-act="${state}"]`);
    if (!button) return false;
    if (button.disabled) return void notice(button.title) || false;
    button.click();
    return true;
  };
  addEventListener("htmx:beforeRequest", (event) => {
    const button = event.detail.elt;
    if (!button.dataset.act) return;
    const row = button.closest("tr");
    row.classList.toggle("done", button.dataset.act !== "open");
    row.setAttribute("aria-busy", "true");
    if (button.dataset.act !== "open") decided.push(row.id);
  });
  const failed = (event) => {
    const button = event.detail.elt;
    const row = button.closest && button.closest("tr");
    if (row && button.dataset.act) {
      row.classList.toggle("done", button.dataset.act === "open");
      row.removeAttribute("aria-busy");
    }
    const answer = event.detail.xhr && event.detail.xhr.responseText;
    notice(answer && answer.length < 300 && !answer.startsWith("<") ? answer : "Not stored: the dashboard does not answer. Try again.");
  };
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) addEventListener(name, failed);
  addEventListener("htmx:afterSwap", (event) => {
    const row = current();
    if (row && !row.classList.contains("sel")) choose(row, document.activeElement === document.body);
    const empty = byId("empty");
    if (empty && rows().length) empty.remove();
    tick(event.target.closest ? event.target.closest("tbody, body") || document : document);
  });
  addEventListener("htmx:oobAfterSwap", () => {
    const row = current();
    if (row && !row.classList.contains("sel")) choose(row, false);
  });

  // ---- live
  const slot = () => byId("slot");
  const refreshRows = (ids) => {
    const here = ids.filter((id) => byId("case-" + id));
    if (here.length) htmx.ajax("GET", "/now/rows?ids=" + encodeURIComponent(here.join(" ")), { source: "#rows", swap: "none" });
  };
  let source = null;
  if (window.htmx) {
    htmx.createEventSource = (url) => {
      source = new EventSource(url, { withCredentials: true });
      source.addEventListener("changed", (event) => refreshRows(event.data.split(" ")));
      source.addEventListener("stream", (event) => {
        const foot = byId("stream");
        if (foot) foot.innerHTML = event.data;
      });
      return source;
    };
  }
  addEventListener("htmx:sseError", () => {
    const cell = slot() && slot().querySelector("td");
    if (cell && !document.hidden) cell.innerHTML = '<span class="lost">Live updates paused, reconnecting. Nothing is lost.</span>';
  });
  addEventListener("htmx:sseMessage", () => {
    const button = byId("show-new");
    if (button) speak(button.textContent.replace("Show n", "").trim());
  });
  // A hidden page gives its connection back: browsers allow six to a server.
  document.addEventListener("visibilitychange", () => {
    const place = slot();
    if (!place) return;
    if (document.hidden) {
      if (source) source.close();
    } else if (source && source.readyState === EventSource.CLOSED) {
      const copy = place.cloneNode(true);
      place.replaceWith(copy);
      htmx.process(copy);
      tick(document);
    }
  });

  // ---- back to a list as its reader left it: its filters, and what was chosen
  addEventListener("pagehide", () => sessionStorage.setItem("left " + location.pathname, location.search));
  for (const link of document.querySelectorAll("[data-back]")) {
    const own = new URL(link.href);
    const left = new URLSearchParams(sessionStorage.getItem("left " + own.pathname) || own.search);
    if (own.searchParams.has("at")) left.set("at", own.searchParams.get("at"));
    own.search = left;
    link.href = own;
  }

  // ---- keys
  const GO = { n: "/now", m: "/metrics", a: "/alerts", t: "/transactions", u: "/users", s: "/system", l: "/uploads", b: "/bundles", e: "/settings", q: "/quality" };
  let going = 0;
  const press = (selector) => {
    const element = document.querySelector(selector);
    if (element) element.click();
    return !!element;
  };
  const keys = {
    j: () => (rows().length ? move(1) : press("[data-next]")),
    k: () => (rows().length ? move(-1) : press("[data-previous]")),
    x: () => {
      const row = current();
      const was = row && row.classList.contains("sel");
      choose(was ? null : row || rows()[0]);
      if (was) currentId = null;
    },
    c: () => act(current(), "confirmed") || press("[data-decide=confirmed]"),
    d: () => act(current(), "dismissed") || press("[data-decide=dismissed]"),
    u: () => {
      const row = current();
      if (row && act(row, "open")) return;
      while (decided.length) if (act(byId(decided.pop()), "open")) return;
      press("[data-decide=open]");
    },
    s: () => {
      const row = current();
      const fold = (row && row.querySelector("[data-snooze]")) || document.querySelector("[data-snooze]");
      if (fold) fold.click();
    },
    n: () => press("#show-new"),
    f: () => press("#follow"),
    "/": () => (document.querySelector("[data-search]") || byId("find")).focus(),
    g: () => (going = Date.now()),
    "?": () => byId("keys").showModal(),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const field = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "Escape") {
      if (field) return field.blur();
      if (byId("keys") && byId("keys").open) return;
      const back = document.querySelector("[data-back]");
      if (back) back.click();
      return;
    }
    if (field || (byId("keys") && byId("keys").open)) return;
    if (going && Date.now() - going < 1500 && GO[event.key]) {
      location.href = GO[event.key];
      return;
    }
    going = 0;
    if (event.key === "Enter") {
      const row = current();
      if (row && document.activeElement === document.body) row.querySelector("a.name").click();
      return;
    }
    if (!byId("keys") || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  // ---- readouts of plots drawn on the server: pointer and arrow keys
  for (const plot of document.querySelectorAll("[data-columns]")) {
    const columns = [...plot.querySelectorAll(".col")];
    const readout = plot.closest("figure").querySelector(".readout");
    let at = columns.length;
    const show = (index) => {
      for (const column of columns) column.classList.remove("at");
      at = index;
      if (columns[index]) columns[index].classList.add("at");
      readout.textContent = columns[index] ? columns[index].dataset.read : readout.dataset.default;
    };
    plot.addEventListener("pointermove", (event) => {
      const column = event.target.closest(".col");
      if (column) show(columns.indexOf(column));
    });
    plot.addEventListener("pointerleave", () => show(columns.length));
    plot.addEventListener("blur", () => show(columns.length));
    plot.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      show(Math.min(Math.max(at + by, 0), columns.length - 1));
    });
  }
})();
