// One metric over time: the usual band as an area, limits as lines, incidents as spans, anomalies as severity marks,
// gaps hatched and left open, no smoothing.
"use strict";
(() => {
  const { each, mark, paint, LEVELS } = window.plots;
  const GAP_STEP = 6;
  const SIZES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

  const minus = (text) => text.replace(/-/g, "\u2212");
  const number = (v) => minus(Math.abs(v) >= 1000 ? v.toLocaleString("en-US", { maximumFractionDigits: 0 }) : String(Number(v.toPrecision(4))));
  // Labels of an axis: as short as their distance allows, so that no two read alike.
  const labels = (values, step, unit) => {
    const most = Math.max(...values.map(Math.abs));
    const [size, word] = (most >= 1e4 && most < 1e15 && SIZES.find(([size]) => most >= size)) || [1, ""];
    const digits = Math.min(Math.max(Math.ceil(Math.log10(most / step)) + 1, 1), 15);
    return values.map((v) => minus((v ? Number((v / size).toPrecision(digits)) : 0).toLocaleString("en-US", { maximumSignificantDigits: digits, notation: size === 1 && v && (most >= 1e15 || most < 1e-3) ? "scientific" : "standard" })) + (v && word ? "\u00a0" + word : "") + unit);
  };

  each("series", 280, 0.01, (data, times) => {
    const unit = (text) => (data.unit === "%" ? text + "%" : data.unit ? text + "\u00a0" + data.unit : text);
    const all = [...data.y, ...data.lo, ...data.hi].filter((v) => v !== null);
    let low = Math.min(...all);
    let high = Math.max(...all);
    const room = high - low || Math.abs(high) || 1;
    for (const limit of data.limits) {
      if (limit > low - room && limit < high + room) [low, high] = [Math.min(low, limit), Math.max(high, limit)];
    }
    const pad = (high - low || room) * 0.06;

    const dashed = (c, dash, colour, from, to) => {
      c.lineWidth = devicePixelRatio;
      c.setLineDash(dash.map((length) => length * devicePixelRatio));
      c.strokeStyle = colour;
      c.beginPath();
      c.moveTo(...from);
      c.lineTo(...to);
      c.stroke();
    };
    const hatch = (c, from, to, top, height) => {
      c.save();
      c.beginPath();
      c.rect(from, top, to - from, height);
      c.clip();
      c.fillStyle = paint("plot-gap");
      c.fillRect(from, top, to - from, height);
      c.strokeStyle = paint("plot-band-edge");
      c.lineWidth = devicePixelRatio;
      c.beginPath();
      for (let at = from - height; at < to; at += GAP_STEP * devicePixelRatio) {
        c.moveTo(at, top + height);
        c.lineTo(at + height, top);
      }
      c.stroke();
      c.restore();
    };
    const under = (u, c) => {
      const { left, top, width, height } = u.bbox;
      const x = (t) => Math.min(Math.max(u.valToPos(t, "x", true), left), left + width);
      c.beginPath();
      c.rect(left, top, width, height);
      c.clip();
      for (const [from, to] of data.gaps) hatch(c, x(from), x(to), top, height);
      for (const [from, to, severity, shift] of data.incidents) {
        const wide = Math.max(x(to) - x(from), 2 * devicePixelRatio);
        c.globalAlpha = 0.14;
        c.fillStyle = paint(LEVELS[severity] + "-edge");
        c.fillRect(x(from), top, wide, height);
        c.globalAlpha = 1;
        // A change of level is a moment: everything behind it is another normal.
        if (shift) c.fillRect(x(from) - devicePixelRatio, top, 2 * devicePixelRatio, height);
      }
      for (const limit of data.limits) {
        const y = u.valToPos(limit, "y", true);
        dashed(c, [6, 3], paint("high-edge"), [left, y], [left + width, y]);
      }
      dashed(c, [2, 3], paint("ink-2"), [x(data.end), top], [x(data.end), top + height]);
    };
    const beyond = (i) => (data.lo[i] === null ? 0 : Math.max(data.y[i] - data.hi[i], data.lo[i] - data.y[i]));
    const marks = (u, c) => {
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
        mark(c, data.s[i], u.valToPos(data.t[i], "x", true), u.valToPos(data.y[i], "y", true), 5.5);
      }
    };
    const read = (i) => {
      if (data.y[i] === null || data.y[i] === undefined) return "";
      const band = data.lo[i] === null ? "its band was being learnt" : `had shown ${number(data.lo[i])} to ${unit(number(data.hi[i]))}`;
      return `${times.full(data.t[i])}: ${unit(number(data.y[i]))}, ${band}${data.s[i] ? `, ${LEVELS[data.s[i]]}` : ""}`;
    };
    const edge = { stroke: () => paint("plot-band-edge"), width: 1, points: { show: false } };
    const sign = data.unit === "%" ? "%" : "";
    return {
      columns: [data.t, data.lo, data.hi, data.y],
      series: [edge, edge, { stroke: () => paint("plot-line"), width: 1.4, points: { show: data.t.length < 20, size: 4 } }],
      bands: [{ series: [2, 1], fill: () => paint("plot-band") }],
      range: [low - pad, high + pad],
      y: { size: (u, shown) => Math.max(44, 16 + 6.6 * Math.max(0, ...(shown || []).map((text) => text.length))), values: (u, splits, axisIndex, space, step) => labels(splits, step, sign) },
      under,
      marks,
      read,
    };
  });
})();
