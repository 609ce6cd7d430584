// Amounts over time with uPlot: usual range as an area, anomalies as severity marks, gaps left open, no smoothing.
// Colours come from the tokens through probe elements, because a canvas cannot read light-dark().
"use strict";
(() => {
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const LEVELS = ["none", "low", "medium", "high", "critical"];
  const SHAPES = {
    critical: (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y); c.lineTo(x, y + r); c.lineTo(x - r, y); },
    high: (c, x, y, r) => { c.moveTo(x, y - r * 0.9); c.lineTo(x + r, y + r * 0.8); c.lineTo(x - r, y + r * 0.8); },
    medium: (c, x, y, r) => c.rect(x - r * 0.8, y - r * 0.8, r * 1.6, r * 1.6),
    low: (c, x, y, r) => c.arc(x, y, r * 0.75, 0, 7),
  };
  // For other scripts that draw: colours of the tokens, shapes of the severities.
  window.plots = { colour, LEVELS, SHAPES };
  const HEIGHT = 216;
  const sync = uPlot.sync("page");

  const draw = (place) => {
    const data = JSON.parse(place.dataset.plot);
    const readout = place.closest("figure").querySelector(".readout");
    const paint = {};
    const repaint = () => {
      for (const name of ["plot-band", "plot-band-edge", "plot-line", "plot-axis", "plot-grid", "line-strong", "ink", "ink-2", "canvas"]) paint[name] = colour(name);
      for (const level of LEVELS.slice(1)) {
        paint[level] = colour(level + "-mark");
        paint[level + "-edge"] = colour(level + "-edge");
      }
    };
    repaint();
    const number = (v) => v.toLocaleString("en-US", { maximumFractionDigits: v < 1 ? 2 : 0 });
    const floor = Math.min(...data.y, data.usual ? data.usual[0] : Infinity);
    const top = Math.max(...data.y, data.usual ? data.usual[2] : 0);
    const low = 10 ** Math.floor(Math.log10(Math.max(floor, 1e-6)));
    const high = 10 ** Math.ceil(Math.log10(Math.max(top * 1.3, low * 1.01)));

    const under = (u) => {
      const c = u.ctx;
      const { left, top: t, width, height } = u.bbox;
      c.save();
      if (data.usual) {
        const [lo, mid, hi] = data.usual.map((v) => u.valToPos(Math.max(v, low), "y", true));
        c.fillStyle = paint["plot-band"];
        c.fillRect(left, hi, width, lo - hi);
        c.strokeStyle = paint["plot-band-edge"];
        c.lineWidth = devicePixelRatio;
        c.beginPath();
        for (const y of [lo, hi]) { c.moveTo(left, y); c.lineTo(left + width, y); }
        c.stroke();
        c.strokeStyle = paint["plot-line"];
        c.setLineDash([5 * devicePixelRatio, 3 * devicePixelRatio]);
        c.beginPath(); c.moveTo(left, mid); c.lineTo(left + width, mid); c.stroke();
      }
      const end = u.valToPos(data.end, "x", true);
      if (end <= left + width + 1) {
        c.strokeStyle = paint["ink-2"];
        c.lineWidth = devicePixelRatio;
        c.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
        c.beginPath(); c.moveTo(end, t); c.lineTo(end, t + height); c.stroke();
      }
      c.restore();
    };
    const marks = (u) => {
      const c = u.ctx;
      const [x0, x1] = [u.scales.x.min, u.scales.x.max];
      c.save();
      c.lineWidth = 1.2 * devicePixelRatio;
      const order = data.s.map((_, i) => i).sort((a, b) => data.s[a] - data.s[b] || (a === data.this) - (b === data.this));
      for (const i of order) {
        if (data.t[i] < x0 || data.t[i] > x1) continue;
        const x = u.valToPos(data.t[i], "x", true);
        const y = u.valToPos(data.y[i], "y", true);
        c.beginPath();
        if (!data.s[i]) {
          c.globalAlpha = 0.8;
          c.fillStyle = paint["plot-line"];
          c.arc(x, y, (i === data.this ? 4 : 2.3) * devicePixelRatio, 0, 7);
          c.fill();
          c.globalAlpha = 1;
          continue;
        }
        const level = LEVELS[data.s[i]];
        SHAPES[level](c, x, y, (i === data.this ? 7.5 : 5.5) * devicePixelRatio);
        c.closePath();
        c.fillStyle = paint[level];
        c.strokeStyle = paint[level + "-edge"];
        c.fill();
        c.stroke();
      }
      if (data.this !== null) {
        const x = u.valToPos(data.t[data.this], "x", true);
        const y = u.valToPos(data.y[data.this], "y", true);
        const left = x > u.bbox.left + u.bbox.width / 2;
        const text = data.y[data.this].toLocaleString("en-US", { minimumFractionDigits: data.decimals, maximumFractionDigits: data.decimals }) + ", this one";
        c.font = `600 ${11 * devicePixelRatio}px ${getComputedStyle(document.body).fontFamily}`;
        c.fillStyle = paint.ink;
        c.textAlign = left ? "right" : "left";
        c.textBaseline = "middle";
        c.fillText(text, x + (left ? -12 : 12) * devicePixelRatio, y);
      }
      c.restore();
    };
    const decades = (u, splits) => splits.map((v) => (Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9 ? v : null));
    const axis = { stroke: () => paint["plot-axis"], font: `11px ${getComputedStyle(document.body).fontFamily}`, grid: { stroke: () => paint["plot-grid"], width: 1 }, ticks: { stroke: () => paint["line-strong"], width: 1, size: 4 } };
    const day = (t) => new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: data.zone }).format(t * 1000);
    const clock = (t) => new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: data.zone }).format(t * 1000);
    const say = (i) => {
      readout.textContent = i === null || i === undefined ? readout.dataset.default : data.read[i];
    };
    const plot = new uPlot(
      {
        width: place.clientWidth,
        height: HEIGHT,
        tzDate: (t) => uPlot.tzDate(new Date(t * 1000), data.zone),
        cursor: { sync: { key: sync.key }, y: false, points: { show: false }, drag: { x: true, y: false } },
        scales: { x: { range: (u, a, b) => (a === null ? [data.start, data.end] : [a, b]) }, y: { distr: 3, range: () => [low, high] } },
        axes: [
          { ...axis, size: 26, space: 90, grid: { show: false }, values: (u, splits, axisIndex, space, step) => splits.map((t) => (step < 86400 ? clock(t) : day(t))) },
          { ...axis, size: 58, ticks: { show: false }, grid: { ...axis.grid, filter: decades }, values: (u, splits) => splits.map((v) => (v === null ? "" : number(v))), filter: decades },
        ],
        series: [{}, { stroke: "transparent", paths: () => null, points: { show: false } }],
        hooks: { drawAxes: [under], draw: [marks], setCursor: [(u) => say(u.cursor.left < 0 ? null : u.cursor.idx)] },
        legend: { show: false },
      },
      [data.t, data.y],
      place,
    );
    plot.setScale("x", { min: data.start, max: data.end + (data.end - data.start) * 0.008 });
    plot.over.addEventListener("dblclick", () => plot.setScale("x", { min: data.start, max: data.end + (data.end - data.start) * 0.008 }));
    let at = data.this === null ? data.t.length : data.this;
    place.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      at = Math.min(Math.max(at + by, 0), data.t.length - 1);
      plot.setCursor({ left: plot.valToPos(data.t[at], "x"), top: HEIGHT / 2 });
      say(at);
    });
    place.addEventListener("blur", () => say(null));
    addEventListener("theme", () => { repaint(); plot.redraw(false, true); });
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  };
  for (const place of document.querySelectorAll("[data-plot]")) draw(place);
})();
