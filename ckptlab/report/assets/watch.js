// Ask for what is new, again and again, and draw it.
(() => {
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const looks = JSON.parse(document.getElementById("looks").textContent);
const at = (id) => document.getElementById(id);
let epoch = -1;
let tracks = {};
let panels = [];
let phases = [];

async function poll() {
  const counts = Object.entries(tracks).map(([name, track]) => [name, track.steps.length]);
  let wait = 2;
  try {
    const reply = await fetch(`points?${new URLSearchParams([["epoch", epoch], ...counts])}`);
    if (!reply.ok) throw new Error(`answered ${reply.status}`);
    const news = await reply.json();
    wait = news.wait;
    take(news);
  } catch (error) {
    say(`The watch does not answer (${error.message}). Start ckptlab watch again.`);
    wait = 10;
  }
  setTimeout(poll, wait * 1000);
}

function take(news) {
  if (news.epoch !== epoch) tracks = {};
  epoch = news.epoch;
  for (const [name, part] of Object.entries(news.tracks)) {
    const track = (tracks[name] ??= { steps: [], values: {} });
    track.steps.push(...part.steps);
    for (const [key, values] of Object.entries(part.values)) (track.values[key] ??= []).push(...values);
  }
  panels = news.panels;
  phases = news.status.phases ?? [];
  say(news.status.notice);
  describe(news.status);
  draw();
}

function say(text) {
  at("notice").hidden = !text;
  at("notice").textContent = text;
}

function latest(track, name) {
  return tracks[track]?.values[name]?.findLast((value) => value !== null);
}

function describe(status) {
  const of = status.total_steps ? ` of ${status.total_steps.toLocaleString("en")}` : "";
  at("state").textContent = `${status.state}: step ${status.last_step.toLocaleString("en")}${of}`;
  const facts = [
    ["loss", latest("training", "loss")],
    ["test accuracy", latest("eval", "accuracy")],
    ["updates/s", latest("recording", "pace")],
    ["s waited for recording", latest("recording", "stalled")],
    ["snapshots", status.snapshots],
  ];
  const known = facts.filter(([, value]) => value !== undefined && value !== null);
  at("tiles").replaceChildren(...known.map(([label, value]) => {
    const [box, term, number] = ["div", "dt", "dd"].map((name) => document.createElement(name));
    term.textContent = label;
    number.textContent = Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 });
    box.append(term, number);
    return box;
  }));
  at("phases").replaceChildren(...phases.map(([name, start, finding]) => {
    const item = document.createElement("li");
    item.textContent = `${name}, from step ${start}: ${finding}`;
    return item;
  }));
}

function figureOf(panel) {
  const found = at(`panel-${panel.key}`);
  if (found) return found.querySelector(".plot");
  const [figure, title, plot] = ["figure", "h3", "div"].map((name) => document.createElement(name));
  figure.id = `panel-${panel.key}`;
  title.textContent = panel.title;
  plot.className = "plot";
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", panel.title);
  figure.append(title, plot);
  at("panels").append(figure);
  return plot;
}

function draw() {
  const look = looks[dark.matches ? "dark" : "light"];
  const log = document.querySelector("input[name=axis]:checked").value === "log";
  const keys = new Set(panels.map((panel) => `panel-${panel.key}`));
  for (const figure of document.querySelectorAll("#panels figure")) if (!keys.has(figure.id)) figure.remove();
  for (const panel of panels) {
    const plot = figureOf(panel);
    const data = panel.lines.filter((line) => latest(line.track, line.name) !== undefined).map((line, i) => ({
      type: "scatter",
      mode: line.track === "eval" ? "lines+markers" : "lines",
      name: line.label,
      x: tracks[line.track].steps.map((step) => (log ? step + 1 : step)),
      y: tracks[line.track].values[line.name],
      customdata: tracks[line.track].steps,
      hovertemplate: "step %{customdata}: %{y}",
      line: { color: look.colours[i], width: 1.5 },
      connectgaps: line.track === "eval",
    }));
    const marks = phases.slice(1).map(([, start]) => ({
      type: "line", x0: log ? start + 1 : start, x1: log ? start + 1 : start, y0: 0, y1: 1, yref: "paper",
      line: { color: look.quiet, width: 1, dash: "dot" },
    }));
    const layout = {
      template: look.template,
      height: 260,
      width: plot.clientWidth,
      margin: { l: 56, r: 8, t: 8, b: 40 },
      showlegend: data.length > 1,
      legend: { orientation: "h", x: 0, y: 1.12 },
      xaxis: { title: { text: log ? "step + 1" : "step" }, type: log ? "log" : "linear" },
      yaxis: { title: { text: panel.unit }, type: panel.log ? "log" : "linear" },
      shapes: marks,
      uirevision: panel.key,
    };
    Plotly.react(plot, data, layout, { displayModeBar: false });
  }
  document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn ?? 0) + 1);
}

for (const input of document.querySelectorAll("input[name=axis]")) input.addEventListener("change", draw);
dark.addEventListener("change", draw);
addEventListener("resize", draw);
poll();
})();
