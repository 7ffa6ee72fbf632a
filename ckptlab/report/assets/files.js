// Tables and files: the values behind a chart, and the chart as an image.

function rowsOf(chart) {
  if (chart.kind === "lines") {
    const many = page.runs.length > 1;
    const columns = chart.traces.map((trace) => ({
      name: [many && page.runs[trace.run], trace.name].filter(Boolean).join(": ") || chart.title,
      x: page.values(trace.x), y: page.values(trace.y),
    }));
    const x = [...new Set(columns.flatMap((column) => [...column.x]))].sort((a, b) => a - b);
    const at = columns.map((column) => new Map([...column.x].map((step, i) => [step, column.y[i]])));
    return {
      names: [chart.axis.name, ...columns.map((column) => column.name)],
      rows: x.map((step) => [step, ...at.map((values) => values.get(step))]),
    };
  }
  const panel = panelOf(chart);
  if (!panel) return { names: [], rows: [] };
  const steps = [...page.values(panel.step ?? panel.x)];
  const names = panel.rows ?? panel.components.map((_, k) => `component ${k + 1}`);
  const z = panel.z ? page.values(panel.z) : null;
  const value = z
    ? (row, i) => z[row * steps.length + i]
    : (row, i) => page.values(panel.components[row])[i];
  return {
    names: ["step", ...names],
    rows: steps.map((step, i) => [step, ...names.map((_, row) => value(row, i))]),
  };
}

function csv(chart) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (value) => (value === undefined || Number.isNaN(value) ? "" : String(value));
  const { names, rows } = rowsOf(chart);
  const lines = [names.map(quoted).join(","), ...rows.map((row) => row.map(cell).join(","))];
  return `${lines.join("\r\n")}\r\n`;
}

function toggleTable(button, chart) {
  const tools = button.parentElement;
  const open = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!open));
  if (open) tools.querySelector(".scroll").remove();
  else tools.append(tableOf(chart));
}

function tableOf(chart) {
  const { names, rows } = rowsOf(chart);
  const most = 15;
  const chosen = rows.length <= most ? rows.map((_, i) => i) : [...new Set([
    0, ...Array.from({ length: most - 1 }, (_, k) =>
      Math.round((rows.length - 1) ** (k / (most - 2)))),
  ])];
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of names) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const i of chosen) {
    const row = body.insertRow();
    rows[i].forEach((value, k) => {
      row.insertCell().textContent = k ? written(value, chart.percent) : value.toLocaleString("en");
    });
  }
  const caption = table.createCaption();
  caption.textContent = `${chosen.length} of ${rows.length.toLocaleString("en")} rows`;
  const box = document.createElement("div");
  box.className = "scroll";
  box.tabIndex = 0;
  box.append(table);
  return box;
}

function save(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function saveImage(div, format) {
  const chart = chartOf(div);
  const width = chart.kind === "lines" ? 720 : 900;
  const { data, layout } = figureOf(chart, div, width);
  const runs = page.runs.filter((_, run) => state.shown.has(run));
  const isLines = chart.kind === "lines";
  layout.height += 90;
  layout.margin = { ...layout.margin, t: (layout.margin.t ?? 0) + 80, l: layout.margin.l + 16 };
  layout.title = {
    text: escaped(isLines ? chart.title : `${chart.title} [${chart.unit}]`),
    y: 1 - 26 / layout.height, yanchor: "middle", pad: { t: 0 },
  };
  layout.showlegend = isLines && data.length > 1 && !isCrowded(chart);
  layout.legend = { orientation: "h", y: 1, yanchor: "bottom", x: 0, font: { size: 11 } };
  if (isLines) layout.yaxis.title = { text: escaped(chart.unit) };
  await Plotly.downloadImage(
    { data, layout, config: {} },
    { format, width, height: layout.height, scale: format === "png" ? 2 : 1,
      filename: `${fileName(runs)}-${chart.key}` },
  );
}

function fileName(runs) {
  return runs.join("-").replace(/[^\w.-]+/g, "_").slice(0, 80) || "chart";
}
