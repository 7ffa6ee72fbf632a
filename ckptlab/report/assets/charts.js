// Charts: what plotly is given for each kind, from the specification in the page and the state.

const LEFT = 58;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 42;
const MOST_KEYS = 6;
const DASHED = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };

const state = {
  log: true,
  span: null, // of steps; null is everything
  shown: new Set(),
  run: 0, // whose layers and path are shown
  theme: "light",
  step: null, // under the cursor
  printing: false,
};

let page;

function look() {
  return page.themes[state.theme];
}

function isStep(chart) {
  return chart.axis.step;
}

// The part of the axis that is shown, in its own coordinates.
function spanOf(chart) {
  const log = isStep(chart) && state.log;
  const [first, last] = isStep(chart) ? state.span ?? page.steps : chart.axis.range;
  const low = placed(first, log);
  const high = placed(last, log);
  return { log, low, high: high > low ? high : low + 1 };
}

function colourOf(chart, trace, position) {
  const { colours } = look();
  return colours[(chart.byRun ? trace.run : position) % colours.length];
}

function dashOf(chart, trace) {
  if (trace.faint || !chart.byRun || isCrowded(chart)) return "solid";
  return page.dashes[trace.style % page.dashes.length];
}

function shownTraces(chart) {
  return chart.traces.filter((trace) => state.shown.has(trace.run));
}

function stepTitle(log, low) {
  const zero = log && low < 0 ? "; 0 is drawn at ½" : "";
  return `step [optimizer updates${zero}]`;
}

function xAxis(chart, width) {
  const { log, low, high } = spanOf(chart);
  const title = isStep(chart) ? stepTitle(log && width > 400, low) : escaped(chart.axis.name);
  const ticks = log ? logTicks(low, high, false) : {};
  const type = log ? "log" : "linear";
  return { title: { text: title }, type, range: [low, high], automargin: false, ...ticks };
}

const KINDS = {
  lines: { data: lineData, layout: lineLayout },
  heat: { data: heatData, layout: heatLayout },
  path: { data: pathData, layout: pathLayout },
  space: { data: spaceData, layout: spaceLayout },
};

function lineData(chart, width) {
  const { log, low, high } = spanOf(chart);
  const pixels = Math.max(50, width - LEFT - RIGHT);
  return shownTraces(chart).flatMap((trace) => {
    const x = page.values(trace.x);
    const y = page.values(trace.y);
    const kept = extremes(x, y, low, high, pixels, log);
    const color = colourOf(chart, trace, chart.traces.indexOf(trace));
    const named = chart.byRun ? [page.runs[trace.run], trace.name].filter(Boolean) : [trace.name];
    const plain = {
      type: "scatter",
      mode: x.length <= 40 ? "lines+markers" : "lines",
      x: kept.map((i) => (log && x[i] <= 0 ? 0.5 : x[i])),
      y: kept.map((i) => (Number.isFinite(y[i]) ? y[i] : NaN)),
      customdata: kept.map((i) => x[i]),
      name: escaped(named.join(", ")),
      ...hoverOf(chart, named.join(": ")),
      opacity: trace.faint ? 0.45 : 1,
      line: {
        color, width: trace.faint || chart.traces.length > 8 ? 1 : 1.75, dash: dashOf(chart, trace),
      },
      marker: { size: 5 },
    };
    const mean = trace.noisy ? trend(x, y, low, high, log, chart.logY) : null;
    if (!mean) return [plain];
    const behind = { ...plain, opacity: 0.3, showlegend: false, line: { ...plain.line, width: 1 } };
    return [behind, { ...plain, ...mean }];
  });
}

// Few lines have their values in the key; many are told apart under the pointer.
function isCrowded(chart) {
  return new Set(chart.traces.map((trace) => trace.style)).size > MOST_KEYS;
}

function hoverOf(chart, name) {
  if (!isCrowded(chart)) return { hoverinfo: "none" };
  return { hovertemplate: `${escaped(name)}<br>%{customdata}: %{y:.4g}<extra></extra>` };
}

function lineLayout(chart, data, width) {
  const positive = data.some((trace) => trace.y.some((value) => value > 0));
  const logY = chart.logY && positive;
  const yaxis = { type: logY ? "log" : "linear", fixedrange: true, automargin: false, nticks: 6 };
  if (chart.percent && !logY) yaxis.tickformat = ".3~%";
  if (logY) {
    const values = data.flatMap((trace) => trace.y.filter((value) => value > 0));
    const low = Math.log10(values.reduce((a, b) => Math.min(a, b)));
    const high = Math.log10(values.reduce((a, b) => Math.max(a, b)));
    const room = 0.05 * (high - low) + 0.01;
    yaxis.range = [low - room, high + room];
    Object.assign(yaxis, logTicks(low - room, high + room, chart.percent));
  }
  const shapes = isStep(chart) ? phaseLines(chart) : [];
  const hovermode = isCrowded(chart) ? "closest" : false;
  return { xaxis: xAxis(chart, width), yaxis, shapes, hovermode };
}

function phaseLines(chart) {
  const { log, low, high } = spanOf(chart);
  return page.phases.filter((step) => step > 0)
    .map((step) => placed(step, log))
    .filter((place) => place > low && place < high)
    .map((place) => ({
      type: "line", layer: "below", yref: "paper", y0: 0, y1: 1,
      x0: unplaced(place, log), x1: unplaced(place, log),
      line: { color: look().line, width: 1, dash: "dot" },
    }));
}

function panelOf(chart) {
  return chart.panels.find((panel) => panel.run === state.run);
}

function heatData(chart, width) {
  const panel = panelOf(chart);
  if (!panel) return [];
  const { log, low, high } = spanOf(chart);
  const z = page.values(panel.z);
  const bins = Math.max(50, Math.round((width - LEFT) / 2));
  const { edges, values } = means(
    page.values(panel.x), panel.end, z, panel.rows.length, low, high, bins, log,
  );
  const least = panel.least;
  const scaled = values.map((row) => row.map((value) => {
    if (Number.isNaN(value)) return null;
    return Math.log10(Math.max(value, least));
  }));
  const text = values.map((row, r) => row.map((value, k) => {
    const last = Math.max(edges[k], edges[k + 1] - 1);
    const steps = last > edges[k] ? `steps ${edges[k]}–${last}, mean` : `step ${edges[k]}`;
    return `${escaped(panel.rows[r])}<br>${steps}: ${written(value, chart.percent)}`;
  }));
  const [floor, ceiling] = [Math.log10(least), Math.log10(panel.most)];
  const ticks = logTicks(floor, ceiling, chart.percent, width < 480 ? [1] : null);
  return [{
    type: "heatmap",
    x: edges.map((x) => (log && x <= 0 ? 0.5 : x)),
    z: scaled,
    text,
    hoverinfo: "text",
    zmin: floor,
    zmax: ceiling > floor ? ceiling : floor + 1,
    colorscale: look().scale,
    colorbar: {
      orientation: "h", thickness: 7, len: 0.62, lenmode: "fraction", outlinewidth: 0,
      x: 0, xanchor: "left", xpad: 0, y: 1, yanchor: "bottom", ypad: 4, tickangle: 0,
      tickmode: "array", tickfont: { size: 11, color: look().quiet }, ticklen: 2,
      tickvals: (ticks.tickvals ?? []).map(Math.log10), ticktext: ticks.ticktext,
    },
  }];
}

function heatLayout(chart, data, width, div) {
  const panel = panelOf(chart);
  const rows = panel ? panel.rows : [];
  const first = !besides(div);
  const longest = width < 480 ? 15 : 20;
  const ticktext = rows.map((name) => escaped(shortened(name, longest)));
  const left = first ? 14 + 6.3 * Math.min(longest, Math.max(0, ...rows.map((r) => r.length))) : 8;
  return {
    xaxis: xAxis(chart, width),
    yaxis: {
      autorange: "reversed", automargin: false, fixedrange: true, showgrid: false, ticks: "",
      tickmode: "array", tickvals: rows.map((_, k) => k).filter((k) => labelled(k, rows.length)),
      ticktext: ticktext.filter((_, k) => labelled(k, rows.length)),
      showticklabels: first, tickfont: { size: 11 },
    },
    hovermode: "closest",
    margin: { l: Math.max(left, first ? 40 : 8), r: RIGHT, t: 34, b: BOTTOM, autoexpand: false },
    height: Math.min(900, 34 + BOTTOM + Math.max(100, 15 * rows.length)),
  };
}

function labelled(k, count) {
  return k % Math.ceil(count / 55) === 0;
}

// A heat map to the right of another has the same rows, and needs no names.
function besides(div) {
  if (state.printing) return false;
  const figure = div.closest("figure");
  const before = figure.previousElementSibling;
  return Boolean(before) && before.offsetTop === figure.offsetTop;
}

function shortened(name, longest) {
  return name.length > longest ? `…${name.slice(name.length - longest + 1)}` : name;
}

function ordered(panel) {
  const steps = page.values(panel.step);
  const colour = Array.from(steps, (step) => placed(step, state.log));
  const low = colour[0];
  const high = colour[colour.length - 1];
  const ticks = state.log ? logTicks(low, high, false) : {};
  return {
    steps, colour,
    scale: look().order,
    bar: {
      title: { text: "step", side: "top", font: { size: 12, color: look().quiet } },
      thickness: 7, len: 0.75, outlinewidth: 0, tickfont: { size: 11, color: look().quiet },
      ...(state.log
        ? { tickvals: (ticks.tickvals ?? []).map(Math.log10), ticktext: ticks.ticktext }
        : {}),
    },
  };
}

function componentTitle(panel, k) {
  const share = written(panel.shares[k], true);
  return `component ${k + 1} [weight], ${share} of the variance`;
}

function pathData(chart) {
  const panel = panelOf(chart);
  if (!panel) return [];
  const { steps, colour, scale, bar } = ordered(panel);
  const [x, y] = panel.components.map((reference) => page.values(reference));
  return [{
    type: "scatter", mode: "lines+markers", x, y,
    line: { color: look().line, width: 1 },
    marker: { color: colour, colorscale: scale, size: 6, colorbar: bar },
    customdata: Array.from(steps),
    hovertemplate: "step %{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
  }];
}

function pathLayout(chart) {
  const panel = panelOf(chart);
  if (!panel) return {};
  const ends = panel.components.slice(0, 2).map((reference) => {
    const values = page.values(reference);
    return [values[0], values[values.length - 1]];
  });
  const steps = page.values(panel.step);
  const notes = [0, 1].map((k) => ({
    x: ends[0][k], y: ends[1][k], text: `step ${steps[k ? steps.length - 1 : 0]}`,
    showarrow: false, yshift: 13, font: { size: 12, color: look().ink },
  }));
  return {
    xaxis: { title: { text: componentTitle(panel, 0) }, showgrid: true },
    yaxis: { title: { text: componentTitle(panel, 1) } },
    margin: { l: LEFT + 14, r: 70, t: TOP, b: BOTTOM },
    annotations: notes,
    hovermode: "closest",
    height: 420,
  };
}

// The parts of a figure: what is drawn on a screen and what is written into a file are the same.
function figureOf(chart, div, width) {
  const kind = KINDS[chart.kind];
  const data = kind.data(chart, width, div);
  const layout = kind.layout(chart, data, width, div);
  return {
    data,
    layout: {
      template: look().template,
      showlegend: false,
      dragmode: "zoom",
      margin: { l: LEFT, r: RIGHT, t: TOP, b: BOTTOM },
      height: state.printing ? 210 : 250,
      font: { size: 12 },
      width,
      ...layout,
    },
  };
}
