// Draw lines, the bands around means, and the text at the pointer. Plotly itself leaves out the
// points of a line that no pixel can show.

// Bands lie behind all lines, and single runs behind their means.
function lineData(chart) {
  const traces = shownTraces(chart).sort((a, b) => Number(b.single) - Number(a.single));
  const parts = traces.map((trace) => lineOfTrace(chart, trace));
  return [...parts.flatMap(({ bands }) => bands), ...parts.flatMap(({ lines }) => lines)];
}

function lineOfTrace(chart, trace) {
  const { log, low, high } = spanOf(chart);
  const x = page.values(trace.x);
  const y = page.values(trace.y);
  const spread = trace.spread && page.values(trace.spread);
  const color = colourOf(chart, trace, chart.traces.indexOf(trace));
  const strong = trace.faint || trace.single || (chart.traces.length > 8 && !page.averaged) ? 1 : 1.75;
  const plain = {
    type: "scatter",
    mode: x.length <= 40 ? "lines+markers" : "lines",
    x: Array.from(x, (step) => shownAt(step, log)),
    y: Array.from(y, (value) => (Number.isFinite(value) ? value : NaN)),
    customdata: Array.from(x),
    name: escaped(fullName(chart, trace).join(", ")),
    ...hoverOf(chart, trace),
    opacity: trace.single ? 0.25 : trace.faint ? 0.45 : 1,
    showlegend: !trace.single,
    line: { color, width: isStep(chart) ? strong : 2, dash: dashOf(chart, trace) },
    marker: { size: isStep(chart) ? 5 : 6 },
    cliponaxis: isStep(chart),
  };
  const mean = trace.noisy && !trace.single ? trend(x, y, low, high, log, chart.logY) : null;
  if (!mean) {
    const edge = (sign) => Array.from(y, (value, i) => value + sign * spread[i]);
    const bands = spread ? bandsOf(plain.x, edge(-1), edge(1), color, chart.logY) : [];
    return { bands, lines: [plain] };
  }
  const behind = { ...plain, opacity: 0.3, showlegend: false, line: { ...plain.line, width: 1 } };
  const lines = [behind, { ...plain, ...mean }];
  if (!spread) return { bands: [], lines };
  const edge = (sign) => trend(x, y.map((value, i) => value + sign * spread[i]), low, high, log, chart.logY);
  const [lower, upper] = [edge(-1), edge(1)];
  return { bands: bandsOf(mean.x, lower.y, upper.y, color, chart.logY), lines: lines.slice(1) };
}

function shownAt(x, log) {
  return log && x <= 0 ? 0.5 : x;
}

// One polygon for each part without gaps. Logarithmic axes cannot show values of zero or less.
function bandsOf(x, lower, upper, color, logY) {
  const positive = lower.filter((value) => value > 0);
  const floor = positive.length ? positive.reduce((a, b) => Math.min(a, b)) : 0;
  const [across, up] = [[], []];
  let from = 0;
  for (let i = 0; i <= x.length; i++) {
    if (i < x.length && Number.isFinite(lower[i]) && Number.isFinite(upper[i])) continue;
    const part = Array.from({ length: i - from }, (_, k) => from + k);
    if (part.length > 1) {
      const back = [...part].reverse();
      across.push(...part.map((k) => x[k]), ...back.map((k) => x[k]), x[part[0]], NaN);
      const low = (k) => (logY ? Math.max(lower[k], floor) : lower[k]);
      up.push(...part.map((k) => upper[k]), ...back.map(low), upper[part[0]], NaN);
    }
    from = i + 1;
  }
  if (!across.length) return [];
  return [{
    type: "scatter", mode: "lines", x: across, y: up, fill: "toself", fillcolor: veiled(color),
    line: { width: 0, color }, hoverinfo: "skip", showlegend: false, band: true,
  }];
}

function veiled(color, opacity = state.theme === "dark" ? 0.22 : 0.15) {
  const [red, green, blue] = [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

// The key holds the values of a few lines; of many, the pointer shows them.
function isCrowded(chart) {
  return isStep(chart) && new Set(chart.traces.map((trace) => trace.style)).size > MOST_KEYS;
}

function hoverOf(chart, trace) {
  const name = escaped(fullName(chart, trace).join(": "));
  if (isStep(chart)) {
    if (!isCrowded(chart)) return { hoverinfo: "none" };
    return { hovertemplate: `${name}<br>%{customdata}: %{y:.4g}<extra></extra>` };
  }
  const [x, y] = [page.values(trace.x), page.values(trace.y)];
  const place = (i) => `${escaped(chart.axis.name)}: ${precise(x[i], chart.axis.percent)}`;
  const text = Array.from(x, (_, i) => (
    [name, place(i), ...measuredAt(trace, i, y[i], chart.percent)].filter(Boolean).join("<br>")
  ));
  return { text, hovertemplate: "%{text}<extra></extra>" };
}

// A mean with its standard deviation and the number of replicates.
function measuredAt(trace, i, value, percent) {
  const spread = trace.spread ? page.values(trace.spread)[i] : NaN;
  const count = trace.count ? page.values(trace.count)[i] : null;
  const around = Number.isFinite(spread) ? ` ± ${precise(spread, percent)}` : "";
  return [
    `<b>${precise(value, percent)}</b>${around}`,
    count === null ? "" : `${count} replicate${count === 1 ? "" : "s"}`,
  ];
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
  const hovermode = !isStep(chart) || isCrowded(chart) ? "closest" : false;
  const layout = { xaxis: xAxis(chart, width), yaxis, shapes: [...shapes, ...marksOf(chart)], hovermode };
  // The last label is centred under the last value.
  if (!isStep(chart)) layout.margin = { l: LEFT, r: 2 * RIGHT, t: TOP, b: BOTTOM };
  if (chart.tall) layout.height = state.printing ? 300 : Math.min(400, 180 + width / 4);
  return { ...layout, annotations: markNames(chart) };
}

function marksOf(chart) {
  return chart.marks.map(({ y }) => ({
    type: "line", layer: "below", xref: "paper", x0: 0, x1: 1, y0: y, y1: y,
    line: { color: look().quiet, width: 1, dash: "dot" },
  }));
}

function markNames(chart) {
  return chart.marks.map(({ y, text }) => ({
    xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", text: escaped(text),
    showarrow: false, font: { size: 11, color: look().quiet },
  }));
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
