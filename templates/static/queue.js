// Two pictures at a time; the others wait, and all of them while there is no model.

export class Queue {
  #waiting = [];
  #running = 0;
  #paused = true;
  #work;
  #atOnce;

  /** @param {(item: object) => Promise<void>} work never rejects */
  constructor(work, atOnce) {
    this.#work = work;
    this.#atOnce = atOnce;
  }

  get paused() {
    return this.#paused;
  }

  add(item, first = false) {
    this.remove(item);
    this.#waiting[first ? "unshift" : "push"](item);
    this.#next();
  }

  remove(item) {
    this.#waiting = this.#waiting.filter((other) => other !== item);
  }

  pause() {
    this.#paused = true;
  }

  resume() {
    this.#paused = false;
    this.#next();
  }

  async #next() {
    while (!this.#paused && this.#running < this.#atOnce && this.#waiting.length) {
      this.#running += 1;
      this.#work(this.#waiting.shift()).finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }
}
