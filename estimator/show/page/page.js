// The estimator as a page. The plan is one object, which the form shows and changes; the worker answers for it.
const FIRST = { model: "llama-3.1-8b", method: "lora", device: "rtx-4090" };
let plan = {};
let version = 0;
let described;

const parse = (text) => {
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("it is no object");
  return value;
};

function take(next, rebuild = false) {
  plan = next;
  version += 1;
  delete $("result").dataset.result;
  $("result").setAttribute("aria-busy", "true");
  history.replaceState(null, "", link());
  if (rebuild) build();
  answered();
}

function refuse(line) {
  version += 1;
  show({ error: line });
  $("curve").replaceChildren();
}

function restore() {
  if (!location.hash.startsWith("#plan=")) return take({ ...FIRST }, true);
  try {
    return take(parse(decodeURIComponent(location.hash.slice("#plan=".length))), true);
  } catch (error) {
    return refuse(
      `the address holds no plan: ${short(String(error.message))}; write #plan= and a plan in JSON, URL-encoded`,
    );
  }
}

async function dropped(file) {
  $("progress").textContent = `reading ${short(file.name)}`;
  const { path, error } = await first.mount(file);
  second.mount(file);
  const found = error === undefined ? await first.ask({ ask: "dropped", plan: path }) : { error };
  $("progress").textContent = "";
  if (found.error !== undefined) return refuse(found.error);
  const stays = Object.entries(plan).filter(([key]) => found.beside?.includes(key) ?? true);
  return take({ ...Object.fromEntries(stays), ...found.keys }, true);
}

async function begin() {
  $("served").hidden = true;
  described = await (await fetch("plan.json")).json();
  buildQuestions();
  buildCopies();
  build();
  restore();
  window.addEventListener("hashchange", restore);
  $("form").addEventListener("submit", (event) => event.preventDefault());
  $("reset").addEventListener("click", () => take({ ...FIRST }, true));
  $("file").addEventListener("change", () => $("file").files.length && dropped($("file").files[0]));
  for (const [name, over] of [
    ["dragover", true],
    ["dragleave", false],
    ["drop", false],
  ]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", over);
      if (name === "drop" && event.dataTransfer.files.length) dropped(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text").trim();
    const forField = event.target.matches?.("input") && !text.includes("\n");
    const name = text.startsWith("{") ? "config.json" : "pasted";
    const file = event.clipboardData.files[0] ?? (text && !forField ? new File([text], name) : null);
    if (file) {
      event.preventDefault();
      dropped(file);
    }
  });
}

begin().catch((error) => refuse(`the page does not start: ${error.message}`));
