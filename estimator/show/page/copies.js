// The plan as a link, a command, a file and Python.

const quoted = (text) => {
  if (/^[A-Za-z0-9_.,/:=@%+-]+$/.test(text)) return text;
  if (!/\p{Cc}/u.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
  const code = (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`;
  return `$'${text.replace(/[\\']/g, "\\$&").replace(/\p{Cc}/gu, code)}'`; // a control character as bash and zsh escape it
};
function commandLine() {
  const words = ["estimator", "estimate", plan.model ?? ""];
  const option = (key, value) => {
    const name = `--${key.replaceAll("_", "-")}`;
    if (value === true) words.push(name);
    else if (value === false) words.push(`--no-${name.slice(2)}`);
    else if (value !== null)
      words.push(
        name,
        Array.isArray(value) && value.every((one) => typeof one !== "object") ? value.join(",") : written(value),
      );
  };
  for (const [key, value] of Object.entries(plan)) {
    if (key === "model") continue;
    if ((key === "method" || isBlock(key)) && typeof value === "object" && value !== null) {
      if (value.name !== undefined) option(key, value.name);
      for (const [inner, one] of Object.entries(value)) if (inner !== "name") option(inner, one);
    } else option(key, value);
  }
  return words.map(quoted).join(" ");
}
const pythonic = (value) => {
  if (value === null) return "None";
  if (value === true || value === false) return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonic).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, one]) => `${JSON.stringify(key)}: ${pythonic(one)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
};
const COPIES = {
  "Copy a link": () => location.href.split("#")[0] + link(),
  "Copy as a command": commandLine,
  "Copy as a plan": () => JSON.stringify(plan, null, 2),
  "Copy as Python": () => `import estimator\n\nprint(estimator.estimate(${pythonic(plan)}))`,
};
function buildCopies() {
  for (const [label, write] of Object.entries(COPIES)) {
    const button = made("button", { type: "button" }, label);
    button.addEventListener("click", async () => {
      const text = write();
      try {
        await navigator.clipboard.writeText(text);
        $("copied").textContent = `copied:\n${text}`;
      } catch {
        $("copied").textContent = text;
      }
    });
    $("copies").append(button);
  }
}

const link = () => `#plan=${encodeURIComponent(JSON.stringify(plan))}`;
