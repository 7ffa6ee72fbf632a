// Show and save the values of a chart, and save the chart as an image.

const MOST_ROWS = 500;

function rowsOf(chart) {
  if (chart.table.length) {
    const columns = chart.table.map(({ texts, values }) => texts ?? page.values(values));
    return {
      names: chart.table.map((column) => column.name),
      rows: Array.from(columns[0], (_, i) => columns.map((column) => column[i])),
    };
  }
  if (chart.kind === "lines") {
    const columns = chart.traces.flatMap((trace) => columnsOf(chart, trace));
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

function columnsOf(chart, trace) {
  const name = fullName(chart, trace).join(": ") || chart.title;
  const x = page.values(trace.x);
  const columns = [{ name, x, y: page.values(trace.y) }];
  if (trace.spread) columns.push({ name: `${name}, std`, x, y: page.values(trace.spread) });
  if (trace.count) columns.push({ name: `${name}, replicates`, x, y: page.values(trace.count) });
  return columns;
}

function csv(chart) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (value) => (value === undefined || Number.isNaN(value) ? "" : quoted(String(value)));
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
  const chosen = chart.table.length ? rows.slice(0, MOST_ROWS).map((_, i) => i) : someOf(rows);
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
      const cell = row.insertCell();
      cell.textContent = cellText(chart, value, k);
      if (typeof value === "string") cell.className = "text";
    });
  }
  const caption = table.createCaption();
  caption.textContent = `${chosen.length} of ${rows.length.toLocaleString("en")} rows`;
  const box = document.createElement("div");
  box.className = chart.table.length ? "scroll all" : "scroll";
  box.tabIndex = 0;
  box.append(table);
  return box;
}

function cellText(chart, value, k) {
  if (typeof value === "string") return value;
  if (chart.table.length) return precise(value, chart.table[k].percent);
  return k ? written(value, chart.percent) : value.toLocaleString("en");
}

// Some rows: both ends, and more of the early steps, where most happens.
function someOf(rows) {
  const most = 15;
  if (rows.length <= most) return rows.map((_, i) => i);
  const places = Array.from({ length: most - 1 }, (_, k) => (
    Math.round((rows.length - 1) ** (k / (most - 2)))
  ));
  return [...new Set([0, ...places])];
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
  const width = chart.kind === "lines" && !chart.tall ? 720 : 900;
  const { data, layout } = figureOf(chart, div, width);
  const runs = page.runs.filter((_, run) => state.shown.has(run));
  const isPlane = chart.kind === "lines" || chart.kind === "scatter";
  layout.height += 90;
  layout.margin = { ...layout.margin, t: (layout.margin.t ?? 0) + 80, l: layout.margin.l + 16 };
  layout.title = {
    text: escaped(isPlane ? chart.title : `${chart.title} [${chart.unit}]`),
    y: 1 - 26 / layout.height, yanchor: "middle", pad: { t: 0 },
  };
  const named = data.filter((trace) => trace.name && trace.showlegend !== false);
  layout.showlegend = isPlane && named.length > 1 && !isCrowded(chart);
  layout.legend = { orientation: "h", y: 1, yanchor: "bottom", x: 0, font: { size: 11 } };
  if (isPlane) layout.yaxis.title = { text: escaped(chart.unit) };
  await Plotly.downloadImage(
    { data, layout, config: {} },
    { format, width, height: layout.height, scale: format === "png" ? 2 : 1,
      filename: `${fileName(runs)}-${chart.key}` },
  );
}

function fileName(runs) {
  return (page.file || runs.join("-")).replace(/[^\w.-]+/g, "_").slice(0, 80) || "chart";
}
