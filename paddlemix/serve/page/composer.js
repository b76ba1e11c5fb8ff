// The field for a message with its images: at the foot of the page, and in place of a question that is edited.

import { byId, icon, iconButton, make, textButton } from "./dom.js";
import { imageTile } from "./image_tile.js";
import { readImage } from "./images.js";
import { text as say } from "./language.js";
import { notify } from "./notices.js";

/** onSend({text, images}) gets a message; numOther() says how many images the conversation has already. */
export class Composer {
  constructor({ shelf, status, numOther, onSend, onStop = null, onCancel = null, openImage, onUp = null }) {
    Object.assign(this, { shelf, status, numOther, onSend, onStop, onCancel, openImage, onUp });
    this.images = [];
    this.numReading = 0;
    this.isBusy = false;
    this.build();
    this.translate();
  }

  build() {
    this.tray = make("div", { class: "tray", hidden: true });
    this.field = make("textarea", {
      rows: "1",
      dir: "auto",
      id: this.onCancel ? null : "message",
      input: () => this.fit(),
      keydown: (event) => this.onKey(event),
      paste: (event) => this.onPaste(event),
    });
    this.picker = make("input", {
      type: "file",
      accept: "image/*",
      multiple: true,
      class: "unseen",
      tabindex: "-1",
      "aria-hidden": "true",
      change: () => this.onPicked(),
    });
    this.attach = iconButton("image", say("addImages"), () => this.picker.click());
    this.hint = make("span", { class: "keys-hint" });
    this.sendButton = make("button", { type: "submit", class: "send" });
    const cancel = this.onCancel && textButton(say("cancel"), () => this.onCancel());
    this.element = make(
      "form",
      { class: "composer", submit: (event) => this.onSubmit(event) },
      this.tray,
      this.field,
      make("div", { class: "composer-row" }, this.attach, this.picker, this.hint, cancel, this.sendButton),
    );
  }

  /** Put the texts of the present language in. */
  translate() {
    this.field.setAttribute("aria-label", say("message"));
    this.hint.textContent = say("keysHint");
    this.attach.title = say("addImages");
    this.attach.setAttribute("aria-label", say("addImages"));
    this.showTray();
  }

  setBusy(isBusy) {
    this.isBusy = isBusy;
    this.showButton();
  }

  /** Fill in a message, to edit it. */
  fill(text, images) {
    this.field.value = text;
    this.images = [...images];
    this.showTray();
    this.fit();
  }

  clear() {
    this.fill("", []);
  }

  focus() {
    this.field.focus();
  }

  /** Let the field be as high as its text, up to what the style allows. */
  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
    this.showButton();
  }

  showTray() {
    const onRemove = (image) => {
      this.images = this.images.filter((other) => other !== image);
      this.showTray();
      this.focus();
    };
    const tiles = this.images.map((image) => imageTile(image, this.shelf, { onRemove, onOpen: this.openImage }));
    if (this.numReading) tiles.push(make("p", { class: "reading" }, say("readingImages")));
    this.tray.replaceChildren(...tiles);
    this.tray.hidden = !tiles.length;
    this.field.placeholder = say(this.images.length ? "messageHintImages" : "messageHint");
    this.showButton();
  }

  showButton() {
    const isStop = this.isBusy && this.onStop;
    const label = say(isStop ? "stop" : this.onCancel ? "resend" : "send");
    this.sendButton.replaceChildren(icon(isStop ? "stop" : "send"));
    this.sendButton.classList.toggle("is-stop", Boolean(isStop));
    this.sendButton.title = label;
    this.sendButton.setAttribute("aria-label", label);
    this.sendButton.disabled = !isStop && (this.isBusy || this.isEmpty || this.numReading > 0);
  }

  get isEmpty() {
    return !this.field.value.trim() && !this.images.length;
  }

  onKey(event) {
    // NOTE: while an input method composes a word, Enter chooses it; Safari says so only by the code 229.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.sendButton.disabled && !this.isBusy) this.send();
    } else if (event.key === "ArrowUp" && this.onUp && !this.field.value && !this.images.length) {
      event.preventDefault();
      this.onUp();
    } else if (event.key === "Escape" && this.onCancel) {
      event.stopPropagation();
      this.onCancel();
    }
  }

  onSubmit(event) {
    event.preventDefault();
    if (this.isBusy && this.onStop) this.onStop();
    else if (!this.sendButton.disabled) this.send();
  }

  send() {
    const message = { text: this.field.value.trim(), images: this.images };
    this.clear();
    this.onSend(message);
  }

  onPicked() {
    const files = [...this.picker.files];
    this.picker.value = ""; // so that the same file can be chosen again
    this.addFiles(files);
  }

  onPaste(event) {
    const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation();
    this.addFiles(files);
  }

  /** Add images in their order; those above the server's limit, and files that are none, are named. */
  async addFiles(files) {
    const max = this.status.limits.max_images;
    const room = Math.max(0, max - this.numOther() - this.images.length - this.numReading);
    if (files.length > room) notify(say("tooManyImages", { max }), { kind: "warning" });
    const taken = files.slice(0, room);
    this.numReading += taken.length;
    this.showTray();
    for (const file of taken) {
      const image = await readImage(file, this.status.limits).catch(() => null);
      this.numReading -= 1;
      if (image) this.images.push(image);
      else notify(say("notAnImage", { name: file.name }), { kind: "warning" });
      this.showTray();
    }
    this.focus();
  }
}

/** Let images that are dropped or pasted anywhere on the page go to the composer that target() returns. */
export function acceptEverywhere(target) {
  const veil = byId("drop-veil");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    veil.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && show(1));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(-depth);
    target().addFiles([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    if (!event.target.closest?.("input, textarea")) target().onPaste(event);
  });
}
