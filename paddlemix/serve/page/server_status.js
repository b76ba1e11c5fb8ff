// Watch the server: its model, its queue, whether it answers.

import { fetchStatus } from "./api.js";

// How often the page looks, in ms.
const EVERY = 5000;
const EVERY_WHEN_BUSY = 1500;
const EVERY_WHEN_GONE = 2000;
const EVERY_WITHOUT_KEY = 60_000; // a new key is tried at once
const SOON = 500;
// Until the server has said its own.
const FIRST = {
  models: [],
  max_model_len: null,
  template: "",
  num_running: 0,
  num_waiting: 0,
  is_ready: false,
  version: "",
  limits: { max_images: 8, max_body_bytes: 64 << 20, max_image_pixels: 64_000_000 },
};

/** state: "loading", "ready", "stopping", "offline" or "key". changed(before) is called after each look. */
export class ServerStatus {
  constructor(changed) {
    this.changed = changed;
    this.state = "loading";
    this.info = FIRST;
    this.timer = null;
  }

  get model() {
    return this.info.models[0] ?? "";
  }

  get limits() {
    return this.info.limits;
  }

  /** Look now and then, only while the page is visible. */
  watch() {
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    addEventListener("online", () => this.look());
    addEventListener("offline", () => this.look());
    return this.look();
  }

  /** Look when the server has put an answer that ended here out of its count. */
  lookSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), SOON);
  }

  async look() {
    clearTimeout(this.timer);
    this.timer = null;
    const before = this.state;
    try {
      const found = await fetchStatus();
      this.info = { ...FIRST, ...found, limits: { ...FIRST.limits, ...found.limits } };
      this.state = this.info.is_ready ? "ready" : this.info.is_stopping ? "stopping" : "loading";
    } catch (error) {
      this.state = { 401: "key", 503: "loading" }[error.status] ?? "offline";
    }
    // Another look may be due already: after an answer that ended meanwhile.
    if (!document.hidden) this.timer ??= setTimeout(() => this.look(), this.pause);
    this.changed(before);
  }

  get pause() {
    if (this.state === "key") return EVERY_WITHOUT_KEY;
    if (this.state !== "ready") return EVERY_WHEN_GONE;
    return this.isBusy ? EVERY_WHEN_BUSY : EVERY;
  }

  get isBusy() {
    return this.info.num_running + this.info.num_waiting > 0;
  }
}
