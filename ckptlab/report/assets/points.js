// Draw bars from a baseline, and scatter plots with a fitted line.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon"];
const ROW = 27;

function toneAt(position) {
  const { colours, ink } = look();
  return position < 0 ? ink : colours[position % colours.length];
}

// Narrow charts have no room left of the bars: names go above them.
function namesAbove(width) {
  return width < 480;
}

function barData(chart, width) {
  const panel = panelOf(chart);
  if (!panel) return [];
  const y = page.values(panel.y);
  const single = page.values(panel.single);
  const each = single.length / Math.max(1, panel.rows.length);
  const base = panel.base ?? 0;
  const rows = panel.rows.map((_, r) => r).filter((r) => Number.isFinite(y[r]));
  const colours = rows.map((r) => toneAt(panel.colours[r]));
  const text = rows.map((r) => barText(chart, panel, r));
  const hover = { text, hovertemplate: "%{text}<extra></extra>" };
  const values = rows.flatMap((r) => Array.from({ length: each }, (_, k) => [r, single[r * each + k]]))
    .filter(([, value]) => Number.isFinite(value));
  return [{
    type: "bar", orientation: "h", y: rows, x: rows.map((r) => y[r] - base), base, width: 0.56,
    marker: { color: colours, opacity: 0.42, line: { width: 0 } }, textposition: "none", ...hover,
  }, {
    type: "scatter", mode: "markers", y: values.map(([r]) => r), x: values.map(([, value]) => value),
    marker: {
      color: values.map(([r]) => toneAt(panel.colours[r])), size: 6, opacity: 1,
      line: { color: look().paper, width: 1 },
    },
    hoverinfo: "skip", cliponaxis: false,
  }, {
    type: "scatter", mode: "markers", y: rows, x: rows.map((r) => y[r]),
    marker: {
      symbol: "line-ns-open", size: 15, color: look().ink, line: { color: look().ink, width: 2 },
    },
    error_x: errors(rows.map((r) => page.values(panel.spread)[r]), look().ink), ...hover,
    cliponaxis: false,
  }];
}

function errors(array, color) {
  const known = array.map((value) => (Number.isFinite(value) ? value : 0));
  return { type: "data", array: known, color, thickness: 1.25, width: 4, visible: known.some(Boolean) };
}

function barText(chart, panel, r) {
  const y = page.values(panel.y)[r];
  const lines = [escaped(panel.rows[r]), ...measuredAt(panel, r, y, chart.percent)];
  if (panel.base !== null && y !== panel.base) {
    const difference = precise(Math.abs(y - panel.base), chart.percent).replace(" %", " points");
    lines.push(`${difference} ${y < panel.base ? "below" : "above"} ${escaped(chart.base)}`);
  }
  return lines.filter(Boolean).join("<br>");
}

function barLayout(chart, data, width, div) {
  const panel = panelOf(chart);
  if (!panel) return {};
  const above = namesAbove(width);
  const first = !above && !besides(div);
  const rows = panel.rows.map((_, r) => r);
  const left = first ? 16 + 6.4 * Math.max(...panel.rows.map((name) => name.length)) : 10;
  const quiet = { size: 11, color: look().quiet };
  const annotations = above ? rows.map((r) => ({
    xref: "paper", x: 0, xanchor: "left", y: r - 0.28, yanchor: "bottom", showarrow: false,
    text: escaped(panel.rows[r]), font: { size: 11, color: look().ink },
  })) : [];
  const shapes = [];
  if (panel.base !== null) {
    const { axis, base, percent } = chart;
    const [low, high] = axis.range;
    const late = panel.base > (low + high) / 2;
    shapes.push({
      type: "line", layer: "below", x0: panel.base, x1: panel.base, yref: "paper", y0: 0, y1: 1,
      line: { color: look().quiet, width: 1, dash: "dot" },
    });
    annotations.push({
      x: panel.base, xanchor: late ? "right" : "left", yref: "paper", y: 1, yanchor: "bottom",
      text: `${escaped(base)}: ${written(panel.base, percent)}`, showarrow: false, font: quiet,
    });
  }
  return {
    xaxis: { ...xAxis(chart, width), showgrid: true, fixedrange: true },
    yaxis: {
      range: [rows.length - 0.4, -0.75], fixedrange: true, showgrid: false, ticks: "",
      automargin: false, tickmode: "array", tickvals: rows, ticktext: panel.rows.map(escaped),
      showticklabels: first, tickfont: { size: 11.5, color: look().ink },
    },
    annotations, shapes, bargap: 0.3, hovermode: "closest", dragmode: false,
    margin: { l: left, r: 2 * RIGHT, t: 24, b: BOTTOM, autoexpand: false },
    height: 24 + BOTTOM + (above ? 1.5 : 1) * ROW * (rows.length + 0.15),
  };
}

function scatterData(chart) {
  const panel = panelOf(chart);
  if (!panel) return [];
  const [x, y] = [page.values(panel.x), page.values(panel.y)];
  const spreads = [page.values(panel.xSpread), page.values(panel.ySpread)];
  const traces = [-1, ...chart.groups.keys()].map((group) => {
    const at = panel.groups.flatMap((of, i) => (of === group && Number.isFinite(x[i] + y[i]) ? [i] : []));
    const color = toneAt(group);
    return {
      type: "scatter", mode: "markers", name: escaped(group < 0 ? panel.names[at[0]] : chart.groups[group]),
      x: at.map((i) => x[i]), y: at.map((i) => y[i]),
      marker: {
        color, size: 9, symbol: group < 0 ? "circle-open" : SYMBOLS[group % SYMBOLS.length],
        line: { color: group < 0 ? color : look().paper, width: group < 0 ? 2 : 1 },
      },
      error_x: errors(at.map((i) => spreads[0][i]), veiled(color, 0.55)),
      error_y: errors(at.map((i) => spreads[1][i]), veiled(color, 0.55)),
      text: at.map((i) => [
        escaped(panel.names[i]), `${escaped(chart.axis.name)}: ${precise(x[i])}`,
        ...measuredAt({ ...panel, spread: panel.ySpread }, i, y[i], chart.percent),
      ].filter(Boolean).join("<br>")),
      hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
    };
  }).filter((trace) => trace.x.length);
  return panel.fit ? [fitted(panel, x), ...traces] : traces;
}

function fitted(panel, x) {
  const { slope, intercept } = panel.fit;
  const known = panel.groups.flatMap((group, i) => (group >= 0 && Number.isFinite(x[i]) ? [x[i]] : []));
  const ends = [Math.min(...known), Math.max(...known)];
  return {
    type: "scatter", mode: "lines", name: "least squares", x: ends,
    y: ends.map((value) => intercept + slope * value), hoverinfo: "skip",
    line: { color: look().quiet, width: 1.5 },
  };
}

function scatterLayout(chart, data, width) {
  return {
    xaxis: { ...xAxis(chart, width), showgrid: true },
    yaxis: {
      range: chart.yRange, fixedrange: true, automargin: false, nticks: 6,
      ...(chart.percent ? { tickformat: ".3~%" } : {}),
    },
    margin: { l: LEFT, r: 2 * RIGHT, t: TOP, b: BOTTOM },
    hovermode: "closest", height: state.printing ? 300 : 360,
  };
}

// The meaning of the symbols, and the statistics of the fitted line.
function scatterKey(chart) {
  const panel = panelOf(chart);
  if (!panel) return [];
  const used = chart.groups.flatMap((name, k) => (panel.groups.includes(k) ? [[name, k]] : []));
  const items = used.map(([name, k]) => keyItem(symbolOf(k), name));
  const compared = panel.groups.indexOf(-1);
  if (compared >= 0) items.unshift(keyItem(symbolOf(-1), panel.names[compared]));
  const item = document.createElement("li");
  const said = document.createElement("b");
  said.textContent = panel.fit ? fitText(panel.fit) : "too few points for a line";
  item.append(said);
  return [...items, item];
}

function fitText({ r, p, count }) {
  const chance = p < 0.001 ? "p < 0.001" : `p = ${rounded(p, 2)}`;
  return `r = ${r.toFixed(2).replace("-", "−")}, ${chance}, ${count} points`;
}

const OUTLINES = {
  circle: "M9 5A4 4 0 1 1 1 5A4 4 0 1 1 9 5Z", square: "M1.5 1.5H8.5V8.5H1.5Z",
  diamond: "M5 0L10 5L5 10L0 5Z", "triangle-up": "M5 1L9.5 9H0.5Z",
  cross: "M3.5 0.5H6.5V3.5H9.5V6.5H6.5V9.5H3.5V6.5H0.5V3.5H3.5Z",
};

function symbolOf(group) {
  const outline = OUTLINES[SYMBOLS[Math.max(0, group) % SYMBOLS.length]] ?? OUTLINES.circle;
  const colour = toneAt(group);
  const attributes = { d: outline, stroke: colour, "stroke-width": 1.5 };
  return drawnKey(10, 10, "path", { ...attributes, fill: group < 0 ? "none" : colour });
}
