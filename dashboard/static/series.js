// One metric over time with uPlot: the usual band as an area, limits as lines, incidents as spans, anomalies
// as severity marks, gaps hatched and left open, no smoothing.
"use strict";
(() => {
  const { colour, LEVELS, SHAPES } = window.plots;
  const HEIGHT = 280;
  const GAP_STEP = 6;
  const NAMES = ["plot-band", "plot-band-edge", "plot-line", "plot-axis", "plot-grid", "plot-gap", "line-strong", "ink-2", "high-edge", "accent"];

  const number = (v) => (Math.abs(v) >= 1000 ? v.toLocaleString("en-US", { maximumFractionDigits: 0 }) : String(Number(v.toPrecision(4))));

  const draw = (place) => {
    const data = JSON.parse(place.dataset.series);
    const readout = place.closest("figure").querySelector(".readout");
    const paint = {};
    const repaint = () => {
      for (const name of NAMES) paint[name] = colour(name);
      for (const level of LEVELS.slice(1)) {
        paint[level] = colour(level + "-mark");
        paint[level + "-edge"] = colour(level + "-edge");
      }
    };
    repaint();
    const unit = (text) => (data.unit === "%" ? text + "%" : data.unit ? text + "\u00a0" + data.unit : text);
    const format = (options, t) => new Intl.DateTimeFormat("en-GB", { ...options, timeZone: data.zone }).format(t * 1000);
    const full = (t) => format({ weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }, t);
    const all = [...data.y, ...data.lo, ...data.hi].filter((v) => v !== null);
    let low = Math.min(...all);
    let high = Math.max(...all);
    const room = high - low || Math.abs(high) || 1;
    for (const limit of data.limits) {
      if (limit > low - room && limit < high + room) [low, high] = [Math.min(low, limit), Math.max(high, limit)];
    }
    const pad = (high - low || room) * 0.06;

    const under = (u) => {
      const c = u.ctx;
      const { left, top, width, height } = u.bbox;
      const x = (t) => Math.min(Math.max(u.valToPos(t, "x", true), left), left + width);
      c.save();
      c.beginPath();
      c.rect(left, top, width, height);
      c.clip();
      for (const [from, to] of data.gaps) {
        c.fillStyle = paint["plot-gap"];
        c.fillRect(x(from), top, x(to) - x(from), height);
        c.strokeStyle = paint["plot-band-edge"];
        c.lineWidth = devicePixelRatio;
        c.save();
        c.beginPath();
        c.rect(x(from), top, x(to) - x(from), height);
        c.clip();
        c.beginPath();
        for (let at = x(from) - height; at < x(to); at += GAP_STEP * devicePixelRatio) {
          c.moveTo(at, top + height);
          c.lineTo(at + height, top);
        }
        c.stroke();
        c.restore();
      }
      for (const [from, to, severity, shift] of data.incidents) {
        const wide = Math.max(x(to) - x(from), 2 * devicePixelRatio);
        c.globalAlpha = 0.14;
        c.fillStyle = paint[LEVELS[severity] + "-edge"];
        c.fillRect(x(from), top, wide, height);
        c.globalAlpha = 1;
        // A change of level is a moment: everything behind it is another normal.
        if (shift) c.fillRect(x(from) - devicePixelRatio, top, 2 * devicePixelRatio, height);
      }
      c.lineWidth = devicePixelRatio;
      c.setLineDash([6 * devicePixelRatio, 3 * devicePixelRatio]);
      c.strokeStyle = paint["high-edge"];
      for (const limit of data.limits) {
        const y = u.valToPos(limit, "y", true);
        c.beginPath();
        c.moveTo(left, y);
        c.lineTo(left + width, y);
        c.stroke();
      }
      c.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      c.strokeStyle = paint["ink-2"];
      c.beginPath();
      c.moveTo(x(data.end), top);
      c.lineTo(x(data.end), top + height);
      c.stroke();
      c.restore();
    };
    const beyond = (i) => (data.lo[i] === null ? 0 : Math.max(data.y[i] - data.hi[i], data.lo[i] - data.y[i]));
    const marks = (u) => {
      const c = u.ctx;
      c.save();
      c.lineWidth = 1.2 * devicePixelRatio;
      const strange = data.s.map((s, i) => i).filter((i) => data.s[i] && data.y[i] !== null);
      // Each run of anomalies once, at its worst; zoomed in, each of them.
      const close = (u.scales.x.max - u.scales.x.min) * 8 < data.end - data.start;
      const runs = [];
      for (const i of strange) {
        const last = runs[runs.length - 1];
        if (!close && last && last.end === i - 1) {
          last.end = i;
          if (data.s[i] > data.s[last.worst] || (data.s[i] === data.s[last.worst] && beyond(i) > beyond(last.worst))) last.worst = i;
        } else runs.push({ worst: i, end: i });
      }
      for (const { worst: i } of runs.sort((a, b) => data.s[a.worst] - data.s[b.worst])) {
        if (data.t[i] < u.scales.x.min || data.t[i] > u.scales.x.max) continue;
        const level = LEVELS[data.s[i]];
        c.beginPath();
        SHAPES[level](c, u.valToPos(data.t[i], "x", true), u.valToPos(data.y[i], "y", true), 5.5 * devicePixelRatio);
        c.closePath();
        c.fillStyle = paint[level];
        c.strokeStyle = paint[level + "-edge"];
        c.fill();
        c.stroke();
      }
      c.restore();
    };
    const axis = { stroke: () => paint["plot-axis"], font: `11px ${getComputedStyle(document.body).fontFamily}`, grid: { stroke: () => paint["plot-grid"], width: 1 }, ticks: { stroke: () => paint["line-strong"], width: 1, size: 4 } };
    const say = (i) => {
      if (i === null || i === undefined || data.y[i] === null || data.y[i] === undefined) {
        readout.textContent = readout.dataset.default;
        return;
      }
      const band = data.lo[i] === null ? "its band was being learnt" : `had shown ${number(data.lo[i])} to ${unit(number(data.hi[i]))}`;
      readout.textContent = `${full(data.t[i])}: ${unit(number(data.y[i]))}, ${band}${data.s[i] ? `, ${LEVELS[data.s[i]]}` : ""}`;
    };
    const edge = { stroke: () => paint["plot-band-edge"], width: 1, points: { show: false } };
    const plot = new uPlot(
      {
        width: place.clientWidth,
        height: HEIGHT,
        tzDate: (t) => uPlot.tzDate(new Date(t * 1000), data.zone),
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
        scales: { x: { range: (u, a, b) => (a === null ? [data.start, data.end] : [a, b]) }, y: { range: () => [low - pad, high + pad] } },
        axes: [
          { ...axis, size: 26, space: 80, values: (u, splits, axisIndex, space, step) => splits.map((t) => format(step < 86400 ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" }, t)) },
          { ...axis, size: 62, ticks: { show: false }, values: (u, splits) => splits.map((v) => (data.unit === "%" ? number(v) + "%" : number(v))) },
        ],
        series: [{}, edge, edge, { stroke: () => paint["plot-line"], width: 1.4, points: { show: data.t.length < 20, size: 4 } }],
        bands: [{ series: [2, 1], fill: () => paint["plot-band"] }],
        hooks: { drawAxes: [under], draw: [marks], setCursor: [(u) => say(u.cursor.left < 0 ? null : u.cursor.idx)] },
        legend: { show: false },
      },
      [data.t, data.lo, data.hi, data.y],
      place,
    );
    const whole = () => plot.setScale("x", { min: data.start, max: data.end + (data.end - data.start) * 0.01 });
    whole();
    plot.over.addEventListener("dblclick", whole);
    let at = data.t.length;
    place.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      at = Math.min(Math.max(at + by, 0), data.t.length - 1);
      plot.setCursor({ left: plot.valToPos(data.t[at], "x"), top: HEIGHT / 2 });
      say(at);
    });
    place.addEventListener("blur", () => say(null));
    addEventListener("theme", () => {
      repaint();
      plot.redraw(false, true);
    });
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  };
  for (const place of document.querySelectorAll("[data-series]")) draw(place);
})();
