// Python in a worker: questions go in, answers come out, and a worker that hangs is replaced.

class Engine {
  #worker = null;
  #waiting = new Map();
  #count = 0;
  #files = [];

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
    if (broken !== undefined) this.restart(broken);
    const [resolve] = this.#waiting.get(id) ?? [];
    this.#waiting.delete(id);
    if (resolve && answer !== undefined) resolve(answer);
  }
  // Ends the worker, and with it whatever it is at. The next question starts another.
  restart(reason) {
    this.#worker?.terminate();
    this.#worker = null;
    for (const [resolve] of this.#waiting.values()) resolve({ error: `no answer: ${reason}` });
    this.#waiting.clear();
  }
  ask(message) {
    this.#started();
    const id = ++this.#count;
    return new Promise((resolve) => {
      this.#waiting.set(id, [resolve]);
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
