// Amounts over time: usual range as an area, anomalies as severity marks, this one named, no smoothing.
"use strict";
(() => {
  const { each, mark, paint } = window.plots;
  const number = (v) => v.toLocaleString("en-US", { maximumFractionDigits: v < 1 ? 2 : 0 });
  const decades = (u, splits) => splits.map((v) => (Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9 ? v : null));

  each("plot", 216, 0.008, (data) => {
    const floor = Math.min(...data.y, data.usual ? data.usual[0] : Infinity);
    const top = Math.max(...data.y, data.usual ? data.usual[2] : 0);
    const low = 10 ** Math.floor(Math.log10(Math.max(floor, 1e-6)));
    const high = 10 ** Math.ceil(Math.log10(Math.max(top * 1.3, low * 1.01)));

    const under = (u, c) => {
      const { left, top: t, width, height } = u.bbox;
      if (data.usual) {
        const [lo, mid, hi] = data.usual.map((v) => u.valToPos(Math.max(v, low), "y", true));
        c.fillStyle = paint("plot-band");
        c.fillRect(left, hi, width, lo - hi);
        c.strokeStyle = paint("plot-band-edge");
        c.lineWidth = devicePixelRatio;
        c.beginPath();
        for (const y of [lo, hi]) { c.moveTo(left, y); c.lineTo(left + width, y); }
        c.stroke();
        c.strokeStyle = paint("plot-line");
        c.setLineDash([5 * devicePixelRatio, 3 * devicePixelRatio]);
        c.beginPath(); c.moveTo(left, mid); c.lineTo(left + width, mid); c.stroke();
      }
      const end = u.valToPos(data.end, "x", true);
      if (end <= left + width + 1) {
        c.strokeStyle = paint("ink-2");
        c.lineWidth = devicePixelRatio;
        c.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
        c.beginPath(); c.moveTo(end, t); c.lineTo(end, t + height); c.stroke();
      }
    };
    const marks = (u, c) => {
      const order = data.s.map((_, i) => i).sort((a, b) => data.s[a] - data.s[b] || (a === data.this) - (b === data.this));
      for (const i of order) {
        if (data.t[i] < u.scales.x.min || data.t[i] > u.scales.x.max) continue;
        const x = u.valToPos(data.t[i], "x", true);
        const y = u.valToPos(data.y[i], "y", true);
        if (data.s[i]) {
          mark(c, data.s[i], x, y, i === data.this ? 7.5 : 5.5);
          continue;
        }
        c.beginPath();
        c.globalAlpha = 0.8;
        c.fillStyle = paint("plot-line");
        c.arc(x, y, (i === data.this ? 4 : 2.3) * devicePixelRatio, 0, 7);
        c.fill();
        c.globalAlpha = 1;
      }
      if (data.this === null) return;
      const x = u.valToPos(data.t[data.this], "x", true);
      const left = x > u.bbox.left + u.bbox.width / 2;
      const text = data.y[data.this].toLocaleString("en-US", { minimumFractionDigits: data.decimals, maximumFractionDigits: data.decimals }) + ", this one";
      c.font = `600 ${11 * devicePixelRatio}px ${getComputedStyle(document.body).fontFamily}`;
      c.fillStyle = paint("ink");
      c.textAlign = left ? "right" : "left";
      c.textBaseline = "middle";
      c.fillText(text, x + (left ? -12 : 12) * devicePixelRatio, u.valToPos(data.y[data.this], "y", true));
    };
    return {
      columns: [data.t, data.y],
      series: [{ stroke: "transparent", paths: () => null, points: { show: false } }],
      range: [low, high],
      log: true,
      x: { space: 90, grid: { show: false } },
      y: { size: 58, grid: { stroke: () => paint("plot-grid"), width: 1, filter: decades }, filter: decades, values: (u, splits) => splits.map((v) => (v === null ? "" : number(v))) },
      under,
      marks,
      read: (i) => data.read[i],
      first: data.this === null ? undefined : data.this,
    };
  });
})();
