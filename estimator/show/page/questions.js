// The other questions, each asked when it is opened.
const METHODS = {
  full: "full",
  LoRA: "lora",
  DoRA: { name: "lora", use_dora: true },
  IA3: "ia3",
  "prompt tuning, 20 tokens": { name: "prompt_tuning", num_virtual_tokens: 20 },
  "prefix tuning, 20 tokens": { name: "prefix_tuning", num_virtual_tokens: 20 },
};
const CARD = "h100-80gb"; // where the plan names none: each card takes seconds
const PHONE = "iphone-15-pro";

function table(caption, head, rows) {
  const numbers = head.map((_, i) => i > 0 && rows.some((row) => /^[\d,.]+( %)?$/.test(row[i])));
  const cells = (row, tag) =>
    row.map((cell, i) =>
      made(tag, { ...(tag === "th" ? { scope: "col" } : {}), ...(numbers[i] ? { class: "number" } : {}) }, cell),
    );
  return made(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    made(
      "table",
      {},
      made("caption", {}, caption),
      made("thead", {}, made("tr", {}, ...cells(head, "th"))),
      made("tbody", {}, ...rows.map((row) => made("tr", {}, ...cells(row, "td")))),
    ),
  );
}
function taking(label, keys, described_) {
  const button = made("button", { type: "button", ...(described_ ? { "aria-label": described_ } : {}) }, label);
  button.addEventListener("click", () => take(keys, true));
  return button;
}
const asked = async (keys, ...words) => {
  const answer = await second.ask({ ask: "run", words, plan: JSON.stringify(keys) });
  if (answer.error !== undefined) throw new Error(answer.error);
  return answer.answer;
};
const limited = () => plan.device || plan.budget;
const NO_LIMIT = "Name a device or a budget first.";

const QUESTIONS = {
  "Methods side by side": async (say) => {
    const rows = [];
    for (const [name, method] of Object.entries(METHODS)) {
      const keys = { ...plan, method };
      const one = await estimated(keys);
      const cells =
        one.error === undefined
          ? [gib(one.bytes.process), whole(one.trainable_parameters), one.verdict ?? ""]
          : ["", "", one.error];
      rows.push([name, ...cells, one.error === undefined ? taking("Take", keys, `Take ${name}`) : ""]);
      say(table("The same step by other methods", ["method", "GiB", "trained parameters", "verdict", "take it"], rows));
    }
  },
  "What to change so that it fits": async (say) => {
    if (!limited()) return say(NO_LIMIT);
    const { advice } = await asked(plan, "advise");
    return say(
      ...advice.map((one) =>
        made(
          "div",
          {},
          made(
            "p",
            {},
            `${one.method}: ${gib(one.before_bytes)} GiB now, ${gib(one.after_bytes)} GiB after; ${one.verdict}.`,
          ),
          table(
            "Changes, each beside those above it",
            ["change", "GiB then", "more compute", "the step", "take it"],
            one.steps.map((step, i) => [
              step.text,
              gib(step.bytes),
              `${(100 * step.extra_compute).toFixed(0)} %`,
              step.fidelity,
              taking(
                i ? `Make ${i + 1}` : "Make it",
                Object.assign({}, plan, ...one.steps.slice(0, i + 1).map(({ change }) => change)),
                `Make ${i ? `these ${i + 1} changes` : "this change"}: ${step.text}`,
              ),
            ]),
          ),
        ),
      ),
    );
  },
  "Longest sequence and largest batch that fit": async (say) => {
    if (!limited()) return say(NO_LIMIT);
    const rows = [];
    for (const [word, key] of [
      ["max-seq", "seq"],
      ["max-batch", "batch"],
    ]) {
      try {
        const { [key]: now, ...rest } = plan;
        const found = await asked(rest, word);
        rows.push([
          key,
          found.answer === null ? "none" : whole(found.answer),
          found.verdict,
          found.peak_at ?? "",
          found.answer ? taking("Take", { ...plan, [key]: found.answer }, `Take ${key} ${found.answer}`) : "",
        ]);
      } catch (error) {
        rows.push([key, "", error.message, "", ""]);
      }
      say(table("The largest values that fit", ["key", "value", "verdict", "peak at", "take it"], rows));
    }
  },
  "Smallest device": async (say) => {
    const { device, budget, ...rest } = plan;
    const found = await asked(rest, "smallest-device");
    const row = (name, bytes, margin) => [
      deviceOf(name)?.label ?? name,
      gib(bytes),
      gib(margin),
      taking("Take", { ...rest, device: name }, `Take ${name}`),
    ];
    return say(
      found.answer === null
        ? "No device of the catalogue has room."
        : table(
            "Devices with room, the smallest first",
            ["device", "process, GiB", "left, GiB", "take it"],
            [
              row(found.answer, found.bytes.process, found.margin),
              ...found.others.map((one) => row(one.device, one.process, one.margin)),
            ],
          ),
    );
  },
  "How many of which card": async (say) => {
    const { device, budget, sharding, ...rest } = plan;
    const card = deviceOf(device)?.capability ? device : CARD;
    const { layouts } = await asked(rest, "smallest-cluster", "--devices", card);
    const words = (block) =>
      block
        ? Object.entries(block)
            .filter(([key]) => key !== "world_size")
            .map(([key, value]) => (key === "name" ? value : `${key} ${value}`))
            .join(", ")
        : "one card";
    const rows = layouts.slice(0, 12).map((one) => [
      `${one.cards}`,
      words(one.sharding),
      gib(one.process),
      gib(one.communicated),
      one.verdict,
      taking(
        "Take",
        {
          ...rest,
          device: one.device,
          ...(one.sharding && one.cards > 1
            ? { sharding: { ...one.sharding, ...(one.sharding.name ? { world_size: one.cards } : {}) } }
            : {}),
        },
        `Take ${one.cards} ${one.device}, ${words(one.sharding)}`,
      ),
    ]);
    return say(
      rows.length
        ? table(
            `Layouts of ${deviceOf(card).label} that fit, those with the fewest cards first`,
            ["cards", "layout", "process of a rank, GiB", "sent a step, GiB", "verdict", "take it"],
            rows,
          )
        : "No layout fits.",
    );
  },
  "Longest context on a phone or a board": async (say, box) => {
    const small = described.devices.filter((one) => one.capability === null);
    let phone = box.querySelector("input");
    if (!phone) {
      phone = made("input", { id: "phone", list: "phones", autocomplete: "off" });
      phone.value = small.some((one) => one.name === plan.device) ? plan.device : PHONE;
      phone.addEventListener("change", () => box.asked());
      const names = small.map((one) => made("option", { value: one.name }, one.label));
      const label = made("label", { for: "phone" }, "Device");
      box.querySelector("summary").after(label, phone, made("datalist", { id: "phones" }, ...names));
    }
    const recipe = /^(q|iq|mxfp4_moe)/i.test(plan.dtype ?? "") ? plan.dtype : "q4_k_m";
    const weights = /\.gguf$/.test(plan.model) ? [] : ["--dtype", recipe];
    const { rows } = await asked({ model: plan.model }, "max-context", `--device=${phone.value}`, ...weights);
    return say(
      table(
        "llama.cpp",
        ["weights", "KV cache", "longest context, tokens", "verdict", "what binds"],
        rows.map((one) => [
          one.recipe,
          `${one.type_k}, ${one.type_v}`,
          one.answer === null ? "none" : whole(one.answer),
          one.verdict,
          one.binds,
        ]),
      ),
    );
  },
};

function buildQuestions() {
  for (const [title, ask] of Object.entries(QUESTIONS)) {
    const said = made("div", { "aria-live": "polite" });
    const box = made("details", {}, made("summary", {}, title), said);
    box.asked = async () => {
      const mine = version;
      const say = (...content) => mine === version && said.replaceChildren(...content);
      said.replaceChildren("…");
      try {
        await ask(say, box);
      } catch (error) {
        say(error.message);
      }
    };
    box.addEventListener("toggle", () => box.open && box.asked());
    $("questions").append(box);
  }
}
