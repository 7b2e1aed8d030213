// Answers what the page asks: Python with this package, loaded once.
import { loadPyodide } from "./pyodide/pyodide.mjs";

const SITE = "/site";
const here = new URL("./", import.meta.url);
const EIO = 29; // of WASI: what the file system says of a disk that cannot be read
let mounted = 0;

async function fetched(name) {
  const answer = await fetch(new URL(name, here));
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer;
}

// A recorded program is a file whose content is sent when Python reads it.
function sentWhenRead({ FS }, name, size) {
  const path = `${SITE}/estimator/model_specs/${name}`;
  FS.mkdirTree(path.slice(0, path.lastIndexOf("/")));
  FS.writeFile(path, "");
  const { node } = FS.lookupPath(path);
  node.usedBytes = size;
  let content;
  Object.defineProperty(node, "contents", { get: () => (content ??= sent(FS, name)) });
}
function sent(FS, name) {
  const request = new XMLHttpRequest();
  request.open("GET", new URL(`model_specs/${name}`, here), false);
  request.responseType = "arraybuffer";
  try {
    request.send();
  } catch {} // as an answer that is none
  if (request.status !== 200) throw new FS.ErrnoError(EIO);
  return new Uint8Array(request.response);
}

async function started() {
  const archive = fetched("python.zip").then((answer) => answer.arrayBuffer());
  const later = fetched("model_specs.json").then((answer) => answer.json());
  postMessage({ progress: "Python is loading" });
  const python = await loadPyodide({ indexURL: new URL("pyodide/", here).href });
  postMessage({ progress: "The estimator is loading" });
  python.unpackArchive(await archive, "zip", { extractDir: SITE });
  for (const [name, size] of Object.entries(await later)) sentWhenRead(python, name, size);
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
