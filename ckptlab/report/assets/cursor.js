// The cursor: one step, read in every chart over steps at once.
function placeOf(div, x) {
  const chart = chartOf(div);
  const { log, low, high } = spanOf(chart);
  const { left, right, width } = frame(div);
  const share = Math.min(1, Math.max(0, (x - left) / (width - left - right)));
  return Math.round(unplaced(low + share * (high - low), log));
}

function frame(div) {
  const margin = div.layout?.margin ?? {};
  return {
    left: margin.l ?? LEFT, right: margin.r ?? RIGHT, top: margin.t ?? TOP,
    width: div.clientWidth, height: (div.layout?.height ?? 250) - (margin.b ?? BOTTOM),
  };
}

let wanted;

function pointSoon(step) {
  if (wanted === undefined) requestAnimationFrame(() => { pointAt(wanted); wanted = undefined; });
  wanted = step;
}

function pointAt(step) {
  if (!page.steps) return;
  const [first, last] = page.steps;
  state.step = step === null ? null : Math.min(last, Math.max(first, step));
  const output = document.querySelector(".bar .at");
  if (output) {
    const bold = document.createElement("b");
    bold.textContent = (state.step ?? last).toLocaleString("en");
    output.replaceChildren("at step ", bold);
  }
  for (const div of plots()) {
    showValues(div);
    moveRule(div);
  }
}

function moveRule(div) {
  const chart = chartOf(div);
  const rule = div.parentElement.querySelector(".rule");
  if (!rule || !isStep(chart)) return;
  const { log, low, high } = spanOf(chart);
  const place = state.step === null ? NaN : placed(state.step, log);
  const inside = place >= low && place <= high;
  rule.style.display = inside ? "block" : "none";
  if (!inside) return;
  const { left, right, top, width, height } = frame(div);
  rule.style.left = `${left + ((place - low) / (high - low)) * (width - left - right)}px`;
  rule.style.top = `${top}px`;
  rule.style.height = `${height - top}px`;
}

function valueAt(trace, reference, step) {
  const x = page.values(trace.x);
  return page.values(reference)[step === null ? x.length - 1 : lastUpTo(x, step)];
}

// The key of a chart also shows its values.
function showValues(div) {
  const chart = chartOf(div);
  const key = div.closest("figure").querySelector(".key");
  if (!key) return;
  if (!isStep(chart)) return key.replaceChildren(...(chart.kind === "scatter" ? scatterKey : namesKey)(chart));
  if (isCrowded(chart)) return;
  const items = [];
  for (const style of [...new Set(chart.traces.map((trace) => trace.style))]) {
    const traces = shownTraces(chart).filter((trace) => trace.style === style && !trace.single);
    if (!traces.length) continue;
    const item = document.createElement("li");
    item.append(keyLine(chart, traces[0]), traces[0].name);
    for (const trace of traces) item.append(keyValue(chart, trace));
    items.push(item);
  }
  key.replaceChildren(...items);
  const step = state.step ?? page.steps[1];
  div.setAttribute("aria-valuemin", page.steps[0]);
  div.setAttribute("aria-valuemax", page.steps[1]);
  div.setAttribute("aria-valuenow", step);
  div.setAttribute("aria-valuetext", `step ${step}: ${items.map((i) => i.textContent).join("; ")}`);
}

// Charts without the cursor only name their lines in the key; the pointer shows values.
function namesKey(chart) {
  const traces = shownTraces(chart).filter((trace) => fullName(chart, trace).length);
  return traces.map((trace) => keyItem(
    lineKey(chart, trace, colourOf(chart, trace, chart.traces.indexOf(trace))),
    fullName(chart, trace).join(", "),
  ));
}

function keyItem(mark, text) {
  const item = document.createElement("li");
  item.append(mark, text);
  return item;
}

function keyLine(chart, trace) {
  const position = chart.traces.indexOf(trace);
  return lineKey(chart, trace, chart.byRun ? look().quiet : colourOf(chart, trace, position));
}

function lineKey(chart, trace, stroke) {
  return drawnKey(22, 8, "line", {
    x1: 0, x2: 22, y1: 4, y2: 4, stroke, "stroke-width": trace.faint ? 1.25 : 2,
    "stroke-opacity": trace.faint ? 0.6 : 1, "stroke-dasharray": DASHED[dashOf(chart, trace)],
  });
}

function drawnKey(width, height, element, attributes) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(space, element);
  for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, value);
  svg.append(drawn);
  return svg;
}

function keyValue(chart, trace) {
  const value = document.createElement("span");
  value.className = "value";
  if (chart.byRun) {
    const dot = document.createElement("i");
    dot.className = "dot";
    dot.style.background = colourOf(chart, trace, 0);
    value.append(dot);
  }
  const bold = document.createElement("b");
  bold.textContent = written(valueAt(trace, trace.y, state.step), chart.percent);
  value.append(bold);
  const spread = trace.spread ? valueAt(trace, trace.spread, state.step) : NaN;
  if (Number.isFinite(spread)) value.append(`± ${written(spread, chart.percent)}`);
  return value;
}

function keyed(event, div) {
  const chart = chartOf(div);
  if (chart.kind === "space") return turnByKey(event, div);
  if (!isStep(chart)) return;
  const [first, last] = page.steps;
  const step = state.step ?? last;
  const far = Math.max(1, Math.round(0.1 * (state.log ? step : last - first)));
  const by = event.shiftKey ? far : 1;
  const moves = {
    ArrowLeft: step - by, ArrowDown: step - by, ArrowRight: step + by, ArrowUp: step + by,
    PageDown: step - far, PageUp: step + far, Home: first, End: last, Escape: null,
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  pointAt(moves[event.key]);
}

function turnByKey(event, div) {
  const moves = {
    ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.12], ArrowDown: [0, -0.12],
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  turn(div, ...moves[event.key]);
}
