// The planner page: pickers and sliders, the breakdown, the curve and the devices. `exported` has what was exported.
const { programs, pickers, devices, shown, along, needs, unsure } = exported;
const SEPARATOR = " | ";
const state = { picks: pickers.map((one) => one.values[0]), values: {}, devices: [...shown] };

const program = () => programs[state.picks.join(SEPARATOR)];

// A slider is logarithmic: it has a thousand steps between the least and the largest value that people ask for.
const STEPS = 1000;
const span = (v) => [v.least, Math.min(v.most, Math.max(v.value * 16, v.least * 64))];
function toSlider(v, value) {
  const [low, high] = span(v);
  return Math.round((STEPS * Math.log(Math.min(Math.max(value, low), high) / low)) / Math.log(high / low));
}
function fromSlider(v, position) {
  const [low, high] = span(v);
  const value = Math.round(low * (high / low) ** (position / STEPS));
  return Math.max(v.least, Math.round(value / v.multiple_of) * v.multiple_of);
}

function buildPickers() {
  pickers.forEach((picker, number) => {
    const id = `pick-${picker.name}`;
    const select = made("select", { id });
    picker.values.forEach((value) => select.append(made("option", { value }, value)));
    select.value = state.picks[number];
    select.addEventListener("change", () => {
      const wanted = [...state.picks];
      wanted[number] = select.value;
      if (!programs[wanted.join(SEPARATOR)]) {
        // Not every pair was exported: take the first one that has this value.
        const other = Object.keys(programs).find((key) => key.split(SEPARATOR)[number] === select.value);
        wanted.splice(0, wanted.length, ...other.split(SEPARATOR));
      }
      state.picks = wanted;
      draw();
    });
    $("pickers").append(made("label", { for: id }, picker.label), select);
  });
}

function buildSliders() {
  const box = $("sliders");
  box.replaceChildren();
  for (const v of program().variables) {
    state.values[v.name] ??= v.value;
    const number = made("input", { type: "number", id: `value-${v.name}`, min: v.least, max: v.most, step: v.multiple_of });
    const slider = made("input", { type: "range", min: 0, max: STEPS, step: 1, "aria-label": `${v.name}, slider` });
    number.value = state.values[v.name];
    slider.value = toSlider(v, state.values[v.name]);
    slider.addEventListener("input", () => {
      number.value = state.values[v.name] = fromSlider(v, Number(slider.value));
      update();
    });
    number.addEventListener("input", () => {
      state.values[v.name] = number.valueAsNumber;
      slider.value = toSlider(v, state.values[v.name] || v.least);
      update();
    });
    box.append(
      made("label", { for: `value-${v.name}` }, v.name),
      made("div", { class: "pair" }, slider, number),
      made("small", {}, v.meaning),
    );
  }
}

function buildDevices() {
  const select = $("device");
  select.replaceChildren(made("option", { value: "" }, "add a device"));
  devices
    .filter((one) => !state.devices.includes(one.name))
    .forEach((one) => select.append(made("option", { value: one.name }, `${one.label} (${gib(one.bytes)} GiB)`)));
}

// What a device's memory is held against. On a GPU its own CUDA context takes the place of the exported plan's.
function needOf(bytes, device, which) {
  return Number(bytes[device.against[which]]) + device.beside;
}
function verdict(bytes, device) {
  const most = needOf(bytes, device, 1);
  const inRam = device.ram === null ? 0 : Number(bytes.used);
  if (needOf(bytes, device, 0) > device.bytes || inRam > (device.ram ?? Infinity)) return ["does not fit", "not"];
  if (most > device.bytes) return ["may not fit", "tight"];
  const tight = most * (1 + unsure) > device.bytes || inRam * (1 + unsure) > (device.ram ?? Infinity);
  return tight ? ["tight", "tight"] : ["fits", "fits"];
}

function drawVerdicts(bytes) {
  const chosen = devices.filter((one) => state.devices.includes(one.name));
  $("verdicts").replaceChildren(
    ...chosen.map((one) => {
      const [words, kind] = verdict(bytes, one);
      const remove = made("button", { type: "button", "aria-label": `remove ${one.label}` }, "×");
      remove.addEventListener("click", () => {
        state.devices = state.devices.filter((name) => name !== one.name);
        draw();
      });
      const text = `${one.label}: ${gib(one.bytes)} GiB`;
      const right = made("span", {}, made("strong", { class: kind }, words), " ", remove);
      return made("li", { "data-device": one.name }, made("span", {}, text), right);
    }),
  );
}

// The answer in one line, by the sliders: for the first device that is shown, and how many of the others have room.
function drawHeadline(bytes) {
  const chosen = devices.filter((one) => state.devices.includes(one.name));
  const own = chosen.find((one) => one.name === shown[0]) ?? chosen[0];
  if (!own) {
    $("headline").replaceChildren(`${gib(bytes[needs.find((name) => name in bytes)])} GiB`);
    return;
  }
  const [words, kind] = verdict(bytes, own);
  const [low, high] = [0, 1].map((which) => gib(needOf(bytes, own, which)));
  const size = low === high ? `${low} GiB` : `${low} to ${high} GiB`;
  const room = chosen.filter((one) => verdict(bytes, one)[1] !== "not").length;
  const others = chosen.length > 1 ? `; room on ${room} of ${chosen.length} devices` : "";
  $("headline").replaceChildren(
    made("strong", { class: kind }, words[0].toUpperCase() + words.slice(1)),
    ` on ${own.label}: ${size} of ${gib(own.bytes)}${others}`,
  );
}

function drawBreakdown(bytes) {
  const largest = Math.max(...Object.values(bytes).map(Number), 1);
  $("breakdown").replaceChildren(
    ...Object.entries(bytes).map(([name, value]) => {
      const bar = made("div", { class: "bar" });
      bar.style.width = `${(100 * Number(value)) / largest}%`;
      return made(
        "tr",
        { "data-component": name, ...(value === 0 ? { hidden: "" } : {}) },
        made("td", {}, name.replaceAll("_", " "), made("br"), made("small", {}, program().components[name]), bar),
        made("td", { class: "number" }, gib(value)),
        made("td", { class: "number", "data-bytes": String(value) }, whole(value)),
      );
    }),
  );
}

function drawCurve() {
  const v = program().variables.find((one) => one.name === along) ?? program().variables[0];
  const need = needs.find((name) => name in program().components);
  const here = state.values[v.name];
  const [low, high] = [v.least, Math.min(v.most, Math.max(4 * here, 64 * v.least))];
  const at = (x) => Number(program().estimate({ ...state.values, [v.name]: x })[need]);
  const between = (share) => Math.max(low, Math.round((low + share * (high - low)) / v.multiple_of) * v.multiple_of);
  const points = Array.from({ length: 81 }, (_, i) => between(i / 80)).map((x) => [x, at(x)]);
  const lines = devices.filter((one) => state.devices.includes(one.name));
  const title = `${need.replaceAll("_", " ")} against ${v.name}`;
  $("curve-title").textContent = title;
  curve({ box: $("curve"), points, here: [here, at(here)], lines, name: v.name, title });
}

function link() {
  const words = new URLSearchParams();
  pickers.forEach((picker, number) => words.set(picker.name, state.picks[number]));
  for (const v of program().variables) words.set(v.name, state.values[v.name]);
  words.set("devices", state.devices.join(","));
  return `#${words}`;
}
function restore() {
  const words = new URLSearchParams(location.hash.slice(1));
  const unread = [];
  const picks = pickers.map((picker, number) => words.get(picker.name) ?? state.picks[number]);
  if (Object.hasOwn(programs, picks.join(SEPARATOR))) state.picks = picks;
  else unread.push(`${picks.join(", ")} is not in this page`);
  for (const v of program().variables) {
    if (!words.has(v.name)) continue;
    const [text, value] = [words.get(v.name), Number(words.get(v.name))];
    if (Number.isInteger(value) && value >= v.least && value <= v.most && value % v.multiple_of === 0) {
      state.values[v.name] = value;
    } else unread.push(`${v.name} '${short(text)}' is no number from ${whole(v.least)} to ${whole(v.most)} that it takes`);
  }
  if (words.has("devices")) {
    const names = words.get("devices").split(",");
    state.devices = devices.map((one) => one.name).filter((name) => names.includes(name));
    for (const name of names) {
      if (name && !state.devices.includes(name)) unread.push(`device '${short(name)}' is not in this page`);
    }
  }
  const known = [...pickers, ...program().variables].map((one) => one.name);
  for (const name of new Set(words.keys())) {
    if (name !== "devices" && !known.includes(name)) unread.push(`'${short(name)}' is unknown`);
  }
  const rest = unread.length > 3 ? [`${unread.length - 3} more`] : [];
  $("unread").textContent = unread.length
    ? `The link could not be read in full: ${[...unread.slice(0, 3), ...rest].join("; ")}. What was there before is kept.`
    : "";
}

function update() {
  let bytes;
  try {
    bytes = program().estimate(state.values);
  } catch (error) {
    $("problem").textContent = error.message;
    for (const id of ["headline", "breakdown", "verdicts", "curve"]) $(id).replaceChildren();
    return;
  }
  $("problem").textContent = "";
  drawHeadline(bytes);
  drawBreakdown(bytes);
  drawVerdicts(bytes);
  drawCurve();
  $("formula").textContent = program().estimate.toString();
  $("about").textContent = program().about.join("\n");
  try {
    history.replaceState(null, "", link());
  } catch {
    // A page inside another one may not change its address; the link's button still works.
  }
}

function draw() {
  pickers.forEach((picker, number) => ($(`pick-${picker.name}`).value = state.picks[number]));
  buildSliders();
  buildDevices();
  update();
}

restore();
buildPickers();
$("device").addEventListener("change", (event) => {
  if (event.target.value) state.devices.push(event.target.value);
  draw();
});
$("copy").addEventListener("click", async () => {
  const address = location.href.split("#")[0] + link();
  try {
    await navigator.clipboard.writeText(address);
    $("copied").textContent = "copied";
  } catch {
    $("copied").textContent = address;
  }
});
window.addEventListener("resize", update);
window.addEventListener("hashchange", () => {
  restore();
  draw();
});
draw();
