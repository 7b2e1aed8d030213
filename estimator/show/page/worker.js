// Answers what the page asks: Python with this package, loaded once.
import { loadPyodide } from "./pyodide/pyodide.mjs";

const SITE = "/site";
let mounted = 0;

async function started() {
  const here = new URL("./", import.meta.url);
  const archive = fetch(new URL("python.zip", here)).then((answer) => {
    if (!answer.ok) throw new Error(`python.zip: ${answer.status}`);
    return answer.arrayBuffer();
  });
  postMessage({ progress: "Python is loading" });
  const python = await loadPyodide({ indexURL: new URL("pyodide/", here).href });
  postMessage({ progress: "The estimator is loading" });
  python.unpackArchive(await archive, "zip", { extractDir: SITE });
  python.runPython(`import sys; sys.path.insert(0, "${SITE}")`);
  return { python, estimator: python.pyimport("estimator.show.in_a_browser") };
}

const ready = started();
ready.then(
  () => postMessage({ progress: "" }),
  (error) => postMessage({ broken: String(error) }),
);

// A file that the user hands over is read in place, by parts: a model's weights may be larger than memory.
function mounted_at(python, file) {
  const folder = `/dropped/${++mounted}`;
  python.FS.mkdirTree(folder);
  python.FS.mount(python.FS.filesystems.WORKERFS, { files: [file] }, folder);
  return `${folder}/${file.name}`;
}

self.addEventListener("message", async ({ data: { id, ask, words, plan, file } }) => {
  const { python, estimator } = await ready;
  try {
    if (ask === "mount") {
      postMessage({ id, answer: { path: mounted_at(python, file) } });
      return;
    }
    const given = ask === "run" ? [python.toPy(words), plan] : [plan];
    postMessage({ id, answer: JSON.parse(estimator[ask](...given)) });
  } catch (error) {
    // A trap of WebAssembly, such as memory or stack that ran out: this Python cannot go on.
    postMessage({ id, broken: String(error) });
  }
});
