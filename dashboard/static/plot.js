// What every plot of uPlot on a page does the same way: colours of the tokens, severity marks, axes in the reader's
// zone, a readout by pointer and by keys, zoom, another theme, another width. `amounts.js` and `series.js` say what is
// drawn. Colours come through a probe element, because a canvas cannot read light-dark().
"use strict";
(() => {
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  let colours = {};
  const paint = (name) => {
    if (!colours[name]) {
      probe.style.color = `var(--${name})`;
      colours[name] = getComputedStyle(probe).color;
    }
    return colours[name];
  };
  addEventListener("theme", () => (colours = {}));

  const LEVELS = ["none", "low", "medium", "high", "critical"];
  const SHAPES = {
    critical: (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y); c.lineTo(x, y + r); c.lineTo(x - r, y); },
    high: (c, x, y, r) => { c.moveTo(x, y - r * 0.9); c.lineTo(x + r, y + r * 0.8); c.lineTo(x - r, y + r * 0.8); },
    medium: (c, x, y, r) => c.rect(x - r * 0.8, y - r * 0.8, r * 1.6, r * 1.6),
    low: (c, x, y, r) => c.arc(x, y, r * 0.75, 0, 7),
  };
  // A severity's mark; places are of the canvas, the radius of the page.
  const mark = (c, severity, x, y, radius) => {
    const level = LEVELS[severity];
    c.beginPath();
    SHAPES[level](c, x, y, radius * devicePixelRatio);
    c.closePath();
    c.lineWidth = 1.2 * devicePixelRatio;
    c.fillStyle = paint(level + "-mark");
    c.strokeStyle = paint(level + "-edge");
    c.fill();
    c.stroke();
  };

  const SPACE = { hour: "2-digit", minute: "2-digit" };
  const DAY = { day: "numeric", month: "short" };
  const sync = uPlot.sync("page");

  // Draws into each [data-KEY]. `make(data, times)` gives columns, series and bands as uPlot has them; range of the y
  // axis, and whether it is a log scale; x and y, what the axes have of their own; under and marks, which paint on the
  // canvas; read(i), a point's words; first, the point at which keys begin.
  const each = (key, height, tail, make) => {
    for (const place of document.querySelectorAll(`[data-${key}]`)) {
      const data = JSON.parse(place.dataset[key]);
      const readout = place.closest("figure").querySelector(".readout");
      const format = (options) => (t) => new Intl.DateTimeFormat("en-GB", { ...options, timeZone: data.zone }).format(t * 1000);
      const times = { clock: format(SPACE), day: format(DAY), full: format({ weekday: "short", ...DAY, ...SPACE }) };
      const own = make(data, times);
      const say = (i) => (readout.textContent = (i !== null && i !== undefined && own.read(i)) || readout.dataset.default);
      const axis = {
        stroke: () => paint("plot-axis"),
        font: `11px ${getComputedStyle(document.body).fontFamily}`,
        grid: { stroke: () => paint("plot-grid"), width: 1 },
        ticks: { stroke: () => paint("line-strong"), width: 1, size: 4 },
      };
      const saved = (draw) => (u) => {
        u.ctx.save();
        draw(u, u.ctx);
        u.ctx.restore();
      };
      const plot = new uPlot(
        {
          width: place.clientWidth,
          height,
          tzDate: (t) => uPlot.tzDate(new Date(t * 1000), data.zone),
          cursor: { sync: { key: sync.key }, y: false, points: { show: false }, drag: { x: true, y: false } },
          scales: { x: { range: (u, a, b) => (a === null ? [data.start, data.end] : [a, b]) }, y: { distr: own.log ? 3 : 1, range: () => own.range } },
          axes: [
            { ...axis, size: 26, space: 80, values: (u, splits, axisIndex, space, step) => splits.map((t) => (step < 86400 ? times.clock : times.day)(t)), ...own.x },
            { ...axis, ticks: { show: false }, ...own.y },
          ],
          series: [{}, ...own.series],
          bands: own.bands || [],
          hooks: { drawAxes: [saved(own.under)], draw: [saved(own.marks)], setCursor: [(u) => say(u.cursor.left < 0 ? null : u.cursor.idx)] },
          legend: { show: false },
        },
        own.columns,
        place,
      );
      const whole = () => plot.setScale("x", { min: data.start, max: data.end + (data.end - data.start) * tail });
      whole();
      plot.over.addEventListener("dblclick", whole);
      const last = data.t.length - 1;
      let at = own.first === undefined ? last + 1 : own.first;
      place.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        // Keys are how a plot is heard; a pointer that moves would never let a voice finish.
        readout.setAttribute("aria-live", "polite");
        at = Math.min(Math.max(to, 0), last);
        plot.setCursor({ left: plot.valToPos(data.t[at], "x"), top: height / 2 });
        say(at);
      });
      place.addEventListener("blur", () => {
        readout.removeAttribute("aria-live");
        say(null);
      });
      addEventListener("theme", () => plot.redraw(false, true));
      new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height })).observe(place);
    }
  };
  window.plots = { each, mark, paint, LEVELS };
})();
