// Decode arrays, write numbers as text, place ticks, and average over bins of steps.

const TYPES = { f8: Float64Array, i4: Int32Array };

function decode(array) {
  const binary = atob(array.data);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new TYPES[array.type](bytes.buffer);
}

// Plotly reads some HTML in the text that it draws.
function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function written(value, percent) {
  if (!Number.isFinite(value)) return "–";
  if (percent) return `${rounded(100 * value)} %`;
  return rounded(value);
}

// The same with four digits instead of three.
function precise(value, percent) {
  if (!Number.isFinite(value)) return "–";
  return percent ? `${rounded(100 * value, 4)} %` : rounded(value, 4);
}

function rounded(value, digits = 3) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
    const [leading, power] = value.toExponential(digits - 1).split("e");
    return `${leading.replace("-", "−")} × 10${raised(Number(power))}`;
  }
  if (size >= 10 ** digits - 0.5) return Math.round(value).toLocaleString("en").replace("-", "−");
  const text = value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1))));
  return (text.includes(".") ? text.replace(/\.?0+$/, "") : text).replace("-", "−");
}

function raised(power) {
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  return (power < 0 ? "⁻" : "") + [...String(Math.abs(power))].map((d) => digits[d]).join("");
}

// A logarithmic axis shows step 0 at 1/2.
function placed(step, log) {
  return log ? Math.log10(step > 0 ? step : 0.5) : step;
}

// Ticks of a logarithmic axis from 10^low to 10^high: decades, and more digits if they are few.
function logTicks(low, high, percent, only) {
  const span = high - low;
  const usual = span > 2.5 ? [1] : span > 1.2 ? [1, 3] : span > 0.5 ? [1, 2, 5] : null;
  const digits = span > 1.2 ? only ?? usual : usual;
  if (!digits) return {};
  const every = Math.max(1, Math.ceil(span / 6));
  const tickvals = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    if (power % every) continue;
    for (const digit of digits) tickvals.push(digit * 10 ** power);
  }
  const ticktext = tickvals.map((value) => {
    const text = percent ? 100 * value : value;
    if (text >= 1e-3 && text < 1e6) return `${Number(text.toPrecision(3))}${percent ? "%" : ""}`;
    const power = Math.floor(Math.log10(text) + 1e-9);
    const digit = Math.round(text / 10 ** power);
    return `${digit === 1 ? "" : `${digit}×`}10${raised(power)}${percent ? "%" : ""}`;
  });
  return { tickmode: "array", tickvals, ticktext };
}

// Position of the last entry of increasing `x` that is at most `step`, -1 if none is.
function lastUpTo(x, step) {
  let low = 0;
  let high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// First position of each group of neighbours that share one of `bins` bins of the axis.
function groups(x, from, to, low, high, bins, log) {
  const starts = [];
  let before = -1;
  for (let i = from; i < to; i++) {
    const bin = Math.floor(((placed(x[i], log) - low) / (high - low)) * bins);
    if (bin !== before || i === from) starts.push(i);
    before = bin;
  }
  return starts;
}

// Means over a hundredth of the axis each; null if that is about one step each.
function trend(x, y, low, high, log, geometric) {
  const from = Math.max(0, lastUpTo(x, unplaced(low, log)));
  const to = Math.min(x.length, lastUpTo(x, unplaced(high, log)) + 1);
  const starts = groups(x, from, to, low, high, 100, log);
  if (to - from < 1.5 * starts.length) return null;
  const means = { x: [], y: [] };
  starts.forEach((start, k) => {
    const stop = k + 1 < starts.length ? starts[k + 1] : to;
    let [place, sum, count] = [0, 0, 0];
    for (let i = start; i < stop; i++) {
      if (!Number.isFinite(y[i]) || (geometric && y[i] <= 0)) continue;
      place += placed(x[i], log);
      sum += geometric ? Math.log(y[i]) : y[i];
      count += 1;
    }
    means.x.push(count ? unplaced(place / count, log) : x[start]);
    means.y.push(count ? (geometric ? Math.exp(sum / count) : sum / count) : NaN);
  });
  return means;
}

// Downsample a heat map, shape rows × columns, to the means over bins.
function means(x, end, z, rows, low, high, bins, log) {
  const columns = x.length;
  const from = Math.max(0, lastUpTo(x, unplaced(low, log)));
  const to = Math.max(from + 1, lastUpTo(x, unplaced(high, log)) + 1);
  const starts = groups(x, from, to, low, high, bins, log);
  const edges = starts.map((i) => x[i]);
  edges.push(to < columns ? x[to] : end);
  const values = [];
  for (let row = 0; row < rows; row++) {
    values.push(starts.map((start, k) => {
      const stop = k + 1 < starts.length ? starts[k + 1] : to;
      let sum = 0;
      let count = 0;
      for (let i = start; i < stop; i++) {
        const value = z[row * columns + i];
        if (Number.isFinite(value)) { sum += value; count += 1; }
      }
      return count ? sum / count : NaN;
    }));
  }
  return { edges, values };
}

// Steps are whole numbers; undo the rounding error of 10 ** log10(step).
function unplaced(place, log) {
  const step = log ? 10 ** place : place;
  const whole = Math.round(step);
  return Math.abs(step - whole) < 1e-9 * whole ? whole : step;
}
