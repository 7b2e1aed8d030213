// What is shown of an answer: the headline, the bar, the breakdown, the curve.
const PATIENCE = 8000; // ms that an answer nobody waits for may take before its worker is replaced
const LONGEST = 120000; // ms that any answer may take: a regular expression of somebody's may take years
const POINTS = 9; // of the curve

const deviceOf = (name) => described.devices.find((one) => one.name === name || one.also.includes(name));

function drawBar(answer, result) {
  const total = result.bytes.process;
  const limit = answer.against === "process" ? result.budget_bytes : null;
  const scale = Math.max(total, limit && limit < 3 * total ? limit : 0);
  const parts = Object.entries(answer.parts).filter(([, bytes]) => bytes > 0);
  const bar = made("div", {
    class: "whole",
    role: "img",
    "aria-label": `${gib(total)} GiB: ${parts.map(([name, bytes]) => `${name} ${gib(bytes)}`).join(", ")}`,
  });
  const names = made("ul");
  for (const [name, bytes] of parts) {
    const part = made("div");
    part.style.width = `${(100 * bytes) / scale}%`;
    part.style.background = described.parts[name] ?? "#999999";
    part.title = `${name}: ${gib(bytes)} GiB`;
    const colour = made("span", { class: "colour" });
    colour.style.background = described.parts[name] ?? "#999999";
    bar.append(part);
    names.append(made("li", {}, colour, `${name} ${gib(bytes)}`));
  }
  if (limit && limit <= scale) {
    const line = made("div", { class: "limit" });
    line.style.left = `calc(${(100 * limit) / scale}% - 4px)`;
    bar.append(line);
    names.append(made("li", {}, made("span", { class: "limit" }), `limit ${gib(limit)}`));
  }
  $("bar").replaceChildren(bar, names);
}

function show(answer) {
  const failed = answer.error !== undefined;
  $("result").dataset.result = failed ? JSON.stringify({ error: answer.error }) : answer.result;
  $("result").setAttribute("aria-busy", "false");
  $("problem").textContent = failed ? answer.error : "";
  $("answer").hidden = failed;
  $("breakdown").hidden = failed;
  if (failed) {
    $("headline").replaceChildren();
    return;
  }
  const result = JSON.parse(answer.result);
  const kind = { fits: "fits", tight: "tight", "does not fit": "not" }[result.verdict] ?? "";
  $("headline").replaceChildren(
    made("strong", { class: kind }, `${gib(result.bytes[answer.against])} GiB`),
    ` ${answer.verdict}`,
  );
  $("asked").textContent = `${answer.title}. ${answer.asked}`;
  $("summary").textContent = answer.summary;
  drawBar(answer, result);
  $("rows").replaceChildren(
    ...Object.entries(answer.rows).map(([key, label]) =>
      made(
        "tr",
        { "data-component": key },
        made("td", {}, label),
        made("td", { class: "number" }, gib(result.bytes[key])),
        made("td", { class: "number" }, whole(result.bytes[key])),
      ),
    ),
  );
  $("warnings").replaceChildren(...result.warnings.map((one) => made("li", {}, one)));
  $("assumptions").hidden = !answer.assumed.length;
  $("assumptions").lastElementChild.replaceChildren(...answer.assumed.map((one) => made("li", {}, one)));
}

let running = 0; // the version of the plan that is being answered; 0: none is
async function answered() {
  if (running) return void setTimeout(stopped, PATIENCE, version);
  for (let done = 0; done !== version;) {
    done = version;
    running = done;
    const answer = await first.ask({ ask: "estimated", plan: JSON.stringify(plan) });
    running = 0;
    if (done === version) {
      show(answer);
      $("curve").replaceChildren(answer.error === undefined ? "…" : "");
      if (answer.error === undefined) follow(done, JSON.parse(answer.result), answer.against);
    }
  }
}

// Ends a worker that is still at an older plan. One that is loading goes on: the next would have to load, too.
function stopped(wanted) {
  const stale = running && running !== version && wanted === version && first.loaded;
  if (stale && performance.now() - first.since >= PATIENCE) first.restart("the plan has changed");
}

setInterval(() => {
  const late = running && first.loaded && performance.now() - first.since > LONGEST;
  if (late) first.restart("it takes more than two minutes; ask for less");
}, 1000);

// What is asked behind the estimate, by the second worker: the curve, then each question that is open.
async function follow(mine, result, against) {
  await drawCurve(mine, result, against);
  for (const box of document.querySelectorAll("#questions details[open]")) if (mine === version) await box.asked();
}

async function estimated(keys) {
  const answer = await second.ask({ ask: "estimated", plan: JSON.stringify(keys) });
  return answer.error === undefined ? { ...answer, ...JSON.parse(answer.result) } : answer;
}

async function drawCurve(mine, result, against) {
  if (plan.lengths !== undefined) {
    $("curve").replaceChildren("Of a plan with lengths there is no curve.");
    return;
  }
  const seq = plan.seq ?? described.schema.properties.seq.default;
  const sizes = [
    ...new Set(Array.from({ length: POINTS }, (_, i) => Math.round((seq * 4 * (i + 0.5)) / POINTS)).concat(seq)),
  ]
    .filter((one) => one > 0)
    .sort((a, b) => a - b);
  const device = plan.device && deviceOf(plan.device);
  const points = [];
  for (const size of sizes) {
    if (mine !== version) return;
    const one = size === seq ? result : await estimated({ ...plan, seq: size });
    if (one.bytes) points.push([size, one.bytes[against]]);
  }
  if (mine !== version || points.length < 2) return;
  const limit = result.budget_bytes;
  const lines = limit ? [{ label: plan.budget ?? device?.label ?? "limit", bytes: limit }] : [];
  curve({
    box: $("curve"),
    points,
    here: [seq, result.bytes[against]],
    lines,
    name: "seq (tokens)",
    title: `${against} against sequence length`,
  });
}
