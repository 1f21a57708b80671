// Process items with limited concurrency; pause while there is no model.

export class Queue {
  #waiting = [];
  #running = 0;
  #paused = true;
  #process;
  #concurrency;

  /** @param {(item: object) => Promise<void>} process never rejects */
  constructor(process, concurrency) {
    this.#process = process;
    this.#concurrency = concurrency;
  }

  get isPaused() {
    return this.#paused;
  }

  add(item, first = false) {
    this.remove(item);
    this.#waiting[first ? "unshift" : "push"](item);
    this.#startNext();
  }

  remove(item) {
    this.#waiting = this.#waiting.filter((other) => other !== item);
  }

  pause() {
    this.#paused = true;
  }

  resume() {
    this.#paused = false;
    this.#startNext();
  }

  #startNext() {
    while (!this.#paused && this.#running < this.#concurrency && this.#waiting.length) {
      this.#running += 1;
      this.#process(this.#waiting.shift()).finally(() => {
        this.#running -= 1;
        this.#startNext();
      });
    }
  }
}
