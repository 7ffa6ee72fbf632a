// Draw a path in three dimensions, projected here rather than by plotly: plotly needs WebGL, which
// locked-down browsers lack, and takes seconds without a GPU.

const VIEW = { turn: -0.9, lift: 0.42 };

function spaceData(chart, width, div) {
  const panel = panelOf(chart);
  if (!panel) return [];
  const { steps, colour, scale, bar } = ordered(panel);
  const values = panel.components.map((reference) => page.values(reference));
  const scaled = values.map(toCube);
  const project = projection(div.view ?? VIEW);
  const points = Array.from(steps, (_, i) => project(scaled[0][i], scaled[1][i], scaled[2][i]));
  const shadow = Array.from(steps, (_, i) => project(scaled[0][i], scaled[1][i], -1));
  const text = Array.from(steps, (step, i) => (
    `step ${step}<br>${values.map((component) => written(component[i])).join(", ")}`
  ));
  const deepest = points.reduce((least, point) => Math.min(least, point[2]), 0);
  return [
    lineOf(walls(project, div.view ?? VIEW), look().grid, 1),
    lineOf(shadow, look().line, 1),
    {
      type: "scatter", mode: "lines+markers",
      x: points.map((point) => point[0]), y: points.map((point) => point[1]),
      line: { color: look().line, width: 1 },
      marker: {
        color: colour, colorscale: scale, colorbar: bar, opacity: 1, line: { width: 0 },
        size: points.map((point) => 4.5 + 1.2 * (point[2] - deepest)),
      },
      text, hoverinfo: "text",
    },
  ];
}

function spaceLayout(chart, data, width, div) {
  const panel = panelOf(chart);
  if (!panel) return {};
  const view = div.view ?? VIEW;
  const none = { visible: false, fixedrange: true };
  return {
    xaxis: { ...none, range: [-2, 2] },
    yaxis: { ...none, range: [-1.75, 1.6], scaleanchor: "x" },
    annotations: spaceLabels(panel, projection(view), view, width),
    margin: { l: 0, r: 70, t: 0, b: 0 },
    hovermode: "closest",
    dragmode: false,
    height: Math.min(420, width),
  };
}

function lineOf(points, color, width) {
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", line: { color, width },
    x: points.map((point) => (point ? point[0] : NaN)),
    y: points.map((point) => (point ? point[1] : NaN)),
  };
}

function toCube(values) {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return values.map((value) => (high > low ? (2 * (value - low)) / (high - low) - 1 : 0));
}

// Project a point of the cube from -1 to 1: right, up, and towards the eye.
function projection({ turn, lift }) {
  const [sin, cos] = [Math.sin(turn), Math.cos(turn)];
  return (x, y, z) => {
    const near = cos * x + sin * y;
    return [
      cos * y - sin * x,
      Math.cos(lift) * z - Math.sin(lift) * near,
      Math.sin(lift) * z + Math.cos(lift) * near,
    ];
  };
}

// The corner farthest from the eye, whose three faces are drawn.
function farCorner({ turn }) {
  return [Math.cos(turn) > 0 ? -1 : 1, Math.sin(turn) > 0 ? -1 : 1];
}

function walls(project, view) {
  const [backX, backY] = farCorner(view);
  const lines = [];
  const add = (from, to) => lines.push(project(...from), project(...to), null);
  for (const k of [-1, -0.5, 0, 0.5, 1]) {
    add([k, -1, -1], [k, 1, -1]);
    add([-1, k, -1], [1, k, -1]);
    add([backX, k, -1], [backX, k, 1]);
    add([backX, -1, k], [backX, 1, k]);
    add([k, backY, -1], [k, backY, 1]);
    add([-1, backY, k], [1, backY, k]);
  }
  return lines;
}

function spaceLabels(panel, project, view, width) {
  const [backX, backY] = farCorner(view);
  const ranges = panel.components.map((reference) => {
    const values = page.values(reference);
    return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  });
  const out = 1.2;
  const edges = [
    (k) => project(k, -backY * out, -1.08),
    (k) => project(-backX * out, k, -1.08),
    // The leftmost upright edge.
    (k) => [[backX, -backY], [-backX, backY]]
      .map(([x, y]) => project(x * out, y * out, k))
      .reduce((a, b) => (a[0] < b[0] ? a : b)),
  ];
  const labels = [];
  edges.forEach((edge, k) => {
    const put = (place, text, size, more = {}) => {
      const [x, y] = edge(place);
      const font = { size, color: look().quiet };
      labels.push({ x, y, text, showarrow: false, font, ...more });
    };
    put(-1, written(ranges[k][0]), 10);
    put(1, written(ranges[k][1]), 10);
    const share = width < 400 ? "" : `<br>[weight], ${written(panel.shares[k], true)}`;
    const upright = { textangle: -90, xshift: -14 };
    put(0, `component ${k + 1}${share}`, 11, k < 2 ? { yshift: -10 } : upright);
  });
  return labels;
}

function turn(div, by, lift) {
  const view = div.view ?? VIEW;
  div.view = {
    turn: view.turn + by,
    lift: Math.min(1.5, Math.max(0.02, view.lift + lift)),
  };
  drawOne(div);
}

function turnByPointer(div) {
  let last = null;
  let waiting = false;
  div.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    div.setPointerCapture(event.pointerId);
  });
  div.addEventListener("pointerup", () => { last = null; });
  div.addEventListener("pointercancel", () => { last = null; });
  div.addEventListener("pointermove", (event) => {
    if (!last || waiting) return;
    const by = [event.clientX - last[0], event.clientY - last[1]];
    last = [event.clientX, event.clientY];
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      turn(div, -0.008 * by[0], 0.008 * by[1]);
    });
  });
}
