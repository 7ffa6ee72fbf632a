// Turn the JSON of each kind of chart, and the state of the page, into plotly figures.

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
  chosen: { run: 0, level: 0 }, // which run's layers and path, and which density, are shown
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

function isLog(chart) {
  return chart.axis.switched && state.log;
}

// The visible part of the x axis; logarithms if it is logarithmic.
function spanOf(chart) {
  const log = isLog(chart);
  const [first, last] = isStep(chart) ? state.span ?? page.steps : chart.axis.range;
  const low = placed(first, log);
  const high = placed(last, log);
  return { log, low, high: high > low ? high : low + 1 };
}

function colourOf(chart, trace, position) {
  if (trace.tone) return look()[trace.tone];
  const colours = chart.byRun ? look().legend : look().colours;
  const own = page.averaged && isStep(chart) ? trace.style : position;
  return colours[(chart.byRun ? trace.run : own) % colours.length];
}

// Charts that are not over steps always tell styles apart by dashes.
function dashOf(chart, trace) {
  if (trace.faint || trace.single || (isStep(chart) && (!chart.byRun || isCrowded(chart)))) return "solid";
  return page.dashes[trace.style % page.dashes.length];
}

function shownTraces(chart) {
  return chart.traces.filter((trace) => !chart.byRun || state.shown.has(trace.run));
}

function fullName(chart, trace) {
  const ofRun = chart.byRun || trace.single;
  return [ofRun && page.runs[trace.run], trace.name].filter(Boolean);
}

function stepTitle(log, low) {
  const zero = log && low < 0 ? "; 0 is drawn at ½" : "";
  return `step [optimizer updates${zero}]`;
}

function xAxis(chart, width) {
  const { log, low, high } = spanOf(chart);
  const { name, percent, backwards, ticks } = chart.axis;
  const zero = chart.axis.switched && log && low < 0 && width > 400 && !percent;
  const title = isStep(chart)
    ? stepTitle(log && width > 400, low)
    : `${escaped(name)}${zero ? "; 0 is drawn at ½" : ""}`;
  // Keep points and their labels clear of the ends.
  const room = isStep(chart) ? 0 : 0.015 * (high - low);
  const own = log && ticks.length ? namedTicks(chart, low, high, width) : null;
  const axis = {
    title: { text: title }, type: log ? "log" : "linear",
    range: backwards ? [high + room, low - room] : [low - room, high + room], automargin: false,
    ...(own ?? (log ? logTicks(low, high, percent) : {})),
  };
  if (percent && !log) axis.tickformat = ".3~%";
  return axis;
}

// The named ticks of an axis, the first and as many more as fit.
function namedTicks(chart, low, high, width) {
  const room = 46 * (high - low) / Math.max(50, width - LEFT - RIGHT);
  const tickvals = [];
  for (const value of chart.axis.ticks) {
    const place = placed(value, true);
    const before = tickvals.length ? placed(tickvals[tickvals.length - 1], true) : Infinity;
    if (Math.abs(place - before) >= room) tickvals.push(value);
  }
  const ticktext = tickvals.map((value) => (chart.axis.percent
    ? `${Number((100 * value).toPrecision(3))}%` : String(value)));
  return { tickmode: "array", tickvals, ticktext };
}

const KINDS = {
  lines: { data: lineData, layout: lineLayout },
  heat: { data: heatData, layout: heatLayout },
  path: { data: pathData, layout: pathLayout },
  space: { data: spaceData, layout: spaceLayout },
  bars: { data: barData, layout: barLayout },
  scatter: { data: scatterData, layout: scatterLayout },
};

function panelOf(chart) {
  const by = "level" in (chart.panels[0] ?? {}) ? "level" : "run";
  return chart.panels.find((panel) => panel[by] === state.chosen[by]);
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

// A heat map to the right of another has the same rows and needs no names.
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

// The data and layout of a figure, the same on screen and in files.
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
