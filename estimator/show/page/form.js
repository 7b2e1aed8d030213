// The form: a field for each key of the plan's schema.

const resolved = (schema) => (schema?.$ref ? described.schema.$defs[schema.$ref.split("/").pop()] : (schema ?? {}));
function alternatives(schema) {
  const one = resolved(schema);
  return one.anyOf ? one.anyOf.flatMap(alternatives) : [one];
}
const nameOf = (block) => (typeof block === "object" && block !== null ? block.name : block);
function methodSchema(name) {
  const kinds = alternatives(described.schema.properties.method).filter((one) => one.properties);
  const names = (kind) => [resolved(kind.properties.name)].flatMap((one) => one.enum ?? [one.const ?? one.default]);
  return kinds.find((kind) => names(kind).includes(name)) ?? { properties: {} };
}
const blockSchema = (key) =>
  key === "method"
    ? methodSchema(nameOf(plan.method) ?? "full")
    : alternatives(described.schema.properties[key]).find((one) => one.properties);
// Where a key of the command line is in a plan: of itself, of its method, or of another block.
function placeOf(key) {
  if (key in described.schema.properties) return [key];
  const block = ["method", ...described.blocks].find((name) => key in blockSchema(name).properties);
  return block ? [block, key] : null;
}

const valueAt = ([key, inner]) => {
  const value = Object.hasOwn(plan, key) ? plan[key] : undefined;
  if (inner === undefined) return key === "method" || isBlock(key) ? nameOf(value) : value;
  return typeof value === "object" && value !== null ? value[inner] : undefined;
};
const isBlock = (key) => described.blocks.includes(key);

function setAt([key, inner], value) {
  const next = { ...plan };
  if (inner === undefined && (key === "method" || isBlock(key))) {
    if (value === undefined) delete next[key];
    else if (key === "method") next[key] = value;
    else next[key] = { ...(typeof next[key] === "object" ? next[key] : {}), name: value };
  } else if (inner === undefined) {
    if (value === undefined) delete next[key];
    else next[key] = value;
  } else {
    const block = typeof next[key] === "object" && next[key] !== null ? { ...next[key] } : {};
    if (key === "method") block.name ??= nameOf(plan.method) ?? "full";
    if (value === undefined) delete block[inner];
    else block[inner] = value;
    next[key] = block;
    if (!Object.keys(block).length) delete next[key];
    else if (key === "method" && Object.keys(block).length === 1) next[key] = block.name;
  }
  take(next, key === "method" && inner === undefined);
}

// What a text means for a key: what JSON says, where the key takes more than text.
function meant(text, kinds) {
  if (text === "") return undefined;
  const numbers = kinds.some((kind) => kind.type === "integer" || kind.type === "number");
  if (/^[[{]/.test(text) || (numbers && Number.isFinite(Number(text))) || /^(true|false)$/.test(text)) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }
  if (kinds.some((kind) => kind.type === "array") && text.includes(","))
    return text.split(",").map((one) => one.trim());
  return text;
}
const written = (value) =>
  value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);

function optionsOf(key) {
  if (key === "model")
    return described.models.map((one) => [one.name, `${one.family}, ${(one.parameters / 1e9).toPrecision(3)} B`]);
  if (key === "device") return described.devices.map((one) => [one.name, `${one.label}, ${gib(one.usable_bytes)} GiB`]);
  return null;
}

function field(path, schema, prefix) {
  const key = path.at(-1);
  const kinds = alternatives(schema);
  const id = `${prefix}-${path.join("-")}`;
  const value = valueAt(path);
  const isMethod = key === "method" && path.length === 1;
  const given = isMethod ? "full" : schema.default;
  const choices = isMethod
    ? described.methods
    : kinds.flatMap((kind) => kind.enum ?? (kind.const !== undefined ? [kind.const] : []));
  const isText = (kind) => !kind.enum && kind.const === undefined && kind.type !== "null" && kind.type !== "boolean";
  const free = !isMethod && kinds.some(isText);
  const yes = kinds.some((kind) => kind.type === "boolean");
  const listed = path.length === 1 ? optionsOf(key) : null;
  const beside = [];
  let input;
  if ((choices.length || yes) && !free) {
    const all = [...choices, ...(yes ? [true, false] : [])].filter((one) => one !== given);
    const word = (one) => (one === true ? "yes" : one === false ? "no" : one);
    input = made("select", {}, made("option", { value: "" }, word(given ?? "not given")));
    all.forEach((one) => input.append(made("option", { value: one }, word(one))));
    if (value !== undefined && !all.includes(value))
      input.append(made("option", { value: written(value) }, written(value)));
    input.value = value === undefined ? "" : String(value);
  } else {
    const placeholder = written(given) || "not given";
    input = made("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder });
    if (kinds.some((kind) => kind.type === "integer") && !kinds.some((kind) => kind.type === "string"))
      input.inputMode = "numeric";
    input.value = written(value);
    const offered = listed ?? choices.map((one) => [one, ""]);
    if (offered.length) {
      input.setAttribute("list", `${id}-list`);
      beside.push(
        made("datalist", { id: `${id}-list` }, ...offered.map(([one, label]) => made("option", { value: one }, label))),
      );
    }
  }
  input.id = id;
  input.dataset.key = path.join(".");
  input.setAttribute("aria-describedby", `${id}-help`);
  input.classList.toggle("unset", input.value === "");
  input.addEventListener("change", () => {
    input.classList.toggle("unset", input.value === "");
    const text = input.value.trim();
    setAt(path, yes && (text === "true" || text === "false") ? text === "true" : meant(text, kinds));
  });
  input.title = schema.description ?? "";
  const help = made("small", { id: `${id}-help` }, input.title);
  const words = key.split(/(?=_)/).flatMap((one) => [one, made("wbr")]); // where a long name may break
  return made("div", { class: "field" }, made("label", { for: id }, ...words), input, ...beside, help);
}

function build() {
  const open = new Set([...document.querySelectorAll("#topics details[open]")].map((one) => one.dataset.topic));
  const focused = document.activeElement?.id;
  const { properties } = described.schema;
  const shownFirst = described.first.map(placeOf).filter((path) => path && !(path[0] !== "method" && path.length > 1));
  $("common").replaceChildren(
    ...shownFirst.map((path) =>
      path.length === 1
        ? field(path, properties[path[0]], "common")
        : field(path, blockSchema(path[0]).properties[path[1]], "common"),
    ),
  );
  const done = new Set(shownFirst.map((path) => path.join(".")));
  const byTopic = new Map(Object.keys(described.topics).map((topic) => [topic, []]));
  for (const key of Object.keys(properties)) {
    const rows = byTopic.get(described.topic_of[key] ?? "model");
    if (key === "method" || isBlock(key)) {
      for (const [inner, schema] of Object.entries(blockSchema(key).properties)) {
        if (key === "method" && inner === "name") continue;
        const path = inner === "name" ? [key] : [key, inner];
        if (!done.has(path.join("."))) rows.push(field(path, schema, "key"));
      }
    } else if (!done.has(key)) rows.push(field([key], properties[key], "key"));
  }
  $("topics").replaceChildren(
    ...[...byTopic]
      .filter(([, rows]) => rows.length)
      .map(([topic, rows]) => {
        const box = made(
          "details",
          { "data-topic": topic },
          made("summary", {}, described.topics[topic]),
          made("div", { class: "fields" }, ...rows),
        );
        box.open = open.has(topic);
        return box;
      }),
  );
  if (focused) $(focused)?.focus();
}
