// Python in a worker: questions go in, answers come out, and a worker that hangs is replaced.

class Engine {
  #worker = null;
  #waiting = new Map();
  #count = 0;
  #files = [];
  loaded = false;
  since = 0; // when it began with what it is at, or was loaded

  constructor(progress = () => {}) {
    this.progress = progress;
  }
  #started() {
    if (this.#worker) return;
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker.addEventListener("message", ({ data }) => this.#heard(data));
    this.#worker.addEventListener("error", (event) => this.restart(event.message || "the worker does not start"));
    this.#files.forEach((file) => this.#worker.postMessage({ ask: "mount", file }));
  }
  #heard({ id, answer, progress, broken }) {
    if (progress !== undefined) this.progress(progress);
    if (progress === "") [this.loaded, this.since] = [true, performance.now()];
    if (broken !== undefined) this.restart(broken);
    const resolve = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (resolve && answer !== undefined) resolve(answer);
  }
  // Ends the worker, and with it whatever it is at. The next question starts another.
  restart(reason) {
    this.#worker?.terminate();
    [this.#worker, this.loaded] = [null, false];
    for (const resolve of this.#waiting.values()) resolve({ error: `no answer: ${reason}` });
    this.#waiting.clear();
  }
  ask(message) {
    this.#started();
    const id = ++this.#count;
    this.since = performance.now();
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#worker.postMessage({ id, ...message });
    });
  }
  mount(file) {
    const answer = this.ask({ ask: "mount", file });
    this.#files.push(file);
    return answer;
  }
}

const first = new Engine((text) => ($("progress").textContent = text));
const second = new Engine();
