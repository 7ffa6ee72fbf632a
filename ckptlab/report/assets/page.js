// Draw the charts one after the other, and react to switches, pointer and keys.

const finger = matchMedia("(pointer: coarse)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const SLICE = 100; // milliseconds of drawing before the page may respond again
const PRINTED = { wide: 688, half: 332 };

let drawing = null;

function read(text) {
  page = JSON.parse(text);
  const decoded = new Map();
  page.values = (reference) => {
    if (!decoded.has(reference)) decoded.set(reference, decode(page.arrays[reference]));
    return decoded.get(reference);
  };
  page.runs.forEach((_, run) => state.shown.add(run));
}

function plots() {
  return [...document.querySelectorAll(".plot")];
}

function chartOf(div) {
  return page.charts[div.dataset.chart];
}

function widthOf(div) {
  if (!state.printing) return div.clientWidth;
  return div.closest("figure.half") ? PRINTED.half : PRINTED.wide;
}

function drawOne(div) {
  const chart = chartOf(div);
  const { data, layout } = figureOf(chart, div, widthOf(div));
  const still = state.printing || finger.matches;
  const config = { displayModeBar: false, responsive: false, showTips: false, doubleClick: "autosize" };
  if (still) layout.dragmode = false;
  Plotly.react(div, data, layout, config);
  if (!div.listening) listen(div, chart);
  div.dataset.drawn = "true";
  delete div.dataset.stale;
  showValues(div);
  moveRule(div);
}

// Draw stale charts, nearest to the middle of the window first, and stay responsive.
function redraw() {
  for (const div of plots()) div.dataset.stale = "true";
  if (drawing) return drawing;
  drawing = (async () => {
    // Wait until `drawing` is set: one slice may draw everything.
    await null;
    let began = performance.now();
    for (;;) {
      const stale = plots().filter((div) => div.dataset.stale);
      if (!stale.length) break;
      const middle = innerHeight / 2;
      const away = (div) => Math.abs(div.getBoundingClientRect().top - middle);
      drawOne(stale.reduce((a, b) => (away(b) < away(a) ? b : a)));
      if (performance.now() - began < SLICE) continue;
      await new Promise((resolve) => setTimeout(resolve));
      began = performance.now();
    }
    drawing = null;
  })();
  return drawing;
}

function redrawAtOnce() {
  for (const div of plots()) drawOne(div);
}

function listen(div, chart) {
  div.listening = true;
  if (chart.kind === "space") turnByPointer(div);
  if (!isStep(chart)) return;
  div.on("plotly_relayout", (change) => {
    const { log } = spanOf(chart);
    if (change["xaxis.autorange"]) zoom(null);
    else if ("xaxis.range[0]" in change) {
      zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]].map((place) => unplaced(place, log)));
    }
  });
}

function zoom(span) {
  const [first, last] = page.steps;
  state.span = null;
  if (span) {
    const low = Math.max(first, Math.round(span[0]));
    const high = Math.min(last, Math.round(span[1]));
    if (high > low && (low > first || high < last)) state.span = [low, high];
  }
  const [low, high] = state.span ?? page.steps;
  const [from, to] = document.querySelectorAll(".range input");
  if (from) { from.value = low; to.value = high; }
  for (const button of document.querySelectorAll("[data-do=reset]")) button.hidden = !state.span;
  redraw();
}

// Themes
function useTheme(choice) {
  const root = document.documentElement;
  if (choice === "auto") delete root.dataset.theme;
  else root.dataset.theme = choice;
  state.choice = choice;
  state.theme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
  colourSwatches();
  if (document.body.dataset.ready) redraw();
}

function colourSwatches() {
  for (const mark of document.querySelectorAll("[data-run]")) {
    mark.style.background = look().legend[mark.dataset.run % look().legend.length];
  }
  document.querySelectorAll(".phases thead th[data-phase]").forEach((cell) => {
    const { order } = look();
    const [, colour] = order[Math.min(order.length - 1, Number(cell.dataset.phase))];
    cell.style.borderTopColor = colour;
  });
}

function act(button) {
  if (button.dataset.do === "reset") return zoom(null);
  const figure = button.closest("figure");
  const div = figure.querySelector(".plot");
  const chart = chartOf(div);
  if (button.dataset.do === "table") return toggleTable(button, chart);
  if (button.dataset.do === "csv") return save(csv(chart), `${fileName(page.runs)}-${chart.key}.csv`);
  return saveImage(div, button.dataset.do);
}

// Print with the light theme, in the widths of a printed page.
function beforePrint() {
  if (state.printing) return;
  state.printing = true;
  state.before = { theme: state.theme, step: state.step };
  state.theme = "light";
  state.step = null;
  colourSwatches();
  redrawAtOnce();
}

function afterPrint() {
  if (!state.printing) return;
  state.printing = false;
  Object.assign(state, state.before);
  colourSwatches();
  redraw();
}

function start() {
  read(document.getElementById("data").textContent);
  useTheme("auto");
  document.addEventListener("change", (event) => {
    const { name, value, checked } = event.target;
    if (name === "axis") { state.log = value === "log"; redraw(); }
    if (name === "theme") useTheme(value);
    if (name === "shown") {
      state.shown[checked ? "add" : "delete"](Number(value));
      redraw();
    }
    const [what, section] = name.split("-", 2);
    if (section && what in state.chosen) {
      state.chosen[what] = Number(value);
      for (const input of document.querySelectorAll(`[name^=${what}-]`)) {
        if (input.type === "radio") input.checked = input.value === value;
        else input.value = value;
      }
      redraw();
    }
    if (name === "from" || name === "to") {
      const [from, to] = document.querySelectorAll(".range input");
      zoom([Number(from.value), Number(to.value)]);
    }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) act(button);
  });
  for (const div of plots()) {
    div.addEventListener("keydown", (event) => keyed(event, div));
    if (!isStep(chartOf(div))) continue;
    const box = div.parentElement;
    box.addEventListener("pointermove", (event) => {
      pointSoon(placeOf(div, event.clientX - div.getBoundingClientRect().left));
    });
    box.addEventListener("pointerleave", () => pointSoon(null));
  }
  dark.addEventListener("change", () => state.choice === "auto" && useTheme("auto"));
  addEventListener("beforeprint", beforePrint);
  addEventListener("afterprint", afterPrint);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) redraw();
    width = innerWidth;
  });
  pointAt(null);
  document.body.dataset.ready = "true";
  return redraw().then(() => {
    document.documentElement.dataset.drawn = Math.round(performance.now());
  });
}

// For tests and for the console.
window.ckptlab = {
  ready: start(), state, means, trend, written, csv: (key) => csv(page.charts[key]),
};
