// What pages are drawn with: elements, numbers, and a curve with devices' lines.
const $ = (id) => document.getElementById(id);
const GIB = 2 ** 30;
const gib = (bytes) => (Number(bytes) / GIB).toFixed(2);
const whole = (number) => number.toLocaleString("en-US");
const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);

function made(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Round values from low to high: multiples of 1, 2 or 5 times a power of ten, at most so many.
function ticks(low, high, most) {
  const least = Math.max(high - low, Number.MIN_VALUE) / most;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= least * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: count }, (_, i) => [(first + i) * step, ((first + i) * step).toFixed(digits)]);
}

// Heights at least so far apart, from the lowest on the page up, none above the top.
function apart(heights, distance, top) {
  const moved = [];
  let free = Infinity;
  for (const one of heights) moved.push((free = Math.min(one, free - distance)));
  free = top;
  for (let i = moved.length - 1; i >= 0; i -= 1) {
    moved[i] = Math.max(moved[i], free);
    free = moved[i] + distance;
  }
  return moved;
}

// Bytes against a size: `points` are pairs [size, bytes], `here` is one of them, `lines` are {label, bytes}.
function curve({ box, points, here, lines, name, title }) {
  const [height, left, bottom, top, right] = [320, 64, 40, 18, 34];
  const width = Math.max(300, box.clientWidth);
  const [low, high] = [points[0][0], points[points.length - 1][0]];
  const reach = Math.max(...points.map(([, y]) => y));
  const near = lines.filter((one) => one.bytes < 2 * reach).sort((a, b) => a.bytes - b.bytes);
  const most = Math.max(reach, ...near.map((one) => one.bytes)) * 1.1;
  const atX = (x) => left + ((width - left - right) * (x - low)) / Math.max(high - low, 1);
  const atY = (y) => height - bottom - ((height - bottom - top) * y) / most;
  const svg = made("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const [value, text] of ticks(0, most / GIB, 5)) {
    const y = atY(value * GIB);
    svg.append(made("line", { class: "axis", x1: left, x2: width - right, y1: y, y2: y }));
    svg.append(made("text", { class: "tick", x: left - 6, y: y + 4, "text-anchor": "end" }, text));
  }
  const room = Math.floor((width - left - right) / (7 * whole(high).length + 10));
  for (const [value] of ticks(low, high, Math.max(2, Math.min(8, room)))) {
    if (!Number.isInteger(value)) continue;
    const x = atX(value);
    svg.append(made("line", { class: "axis", x1: x, x2: x, y1: height - bottom, y2: height - bottom + 5 }));
    svg.append(made("text", { class: "tick", x, y: height - bottom + 18, "text-anchor": "middle" }, whole(value)));
  }
  svg.append(made("text", { x: left, y: 11, "text-anchor": "end" }, "GiB"));
  svg.append(made("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, name));
  for (const one of near) {
    const y = atY(one.bytes);
    svg.append(made("line", { class: "device", x1: left, x2: width - right, y1: y, y2: y }));
  }
  const path = points.map(([x, y], i) => `${i ? "L" : "M"}${atX(x).toFixed(1)} ${atY(y).toFixed(1)}`).join("");
  svg.append(made("path", { class: "peak", d: path }));
  svg.append(made("circle", { class: "here", r: 5, cx: atX(here[0]), cy: atY(here[1]) }));
  const named = apart(near.map((one) => atY(one.bytes) - 4), 14, top + 10);
  near.forEach((one, i) => {
    const [start, end] = [points[0], points[points.length - 1]].map(([, y]) => Math.abs(y - one.bytes));
    const place = end > start ? { x: width - right, "text-anchor": "end" } : { x: left + 6 }; // off the curve
    svg.append(made("text", { class: "name", y: named[i], ...place }, one.label));
  });
  box.replaceChildren(svg);
}
