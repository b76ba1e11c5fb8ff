// The conversations of this browser: loaded, saved, removed, exported and imported.

import { exported, imported } from "./archive.js";
import { standardOptions } from "./chat_request.js";
import { imageIds } from "./conversation.js";
import { ask } from "./dialogs.js";
import { make } from "./dom.js";
import { text as say } from "./language.js";
import { notify } from "./notices.js";
import { read, write } from "./preferences.js";

const MAX_IMPORT_BYTES = 512 << 20;

export class Library {
  constructor({ store, shelf, changed, changedElsewhere, isBusy }) {
    Object.assign(this, { store, shelf, changed, changedElsewhere, isBusy });
    this.conversations = [];
    this.tabs = new BroadcastChannel("paddlemix");
    this.tabs.onmessage = (event) => this.onOtherTab(event.data);
  }

  get isLasting() {
    return this.store.isLasting;
  }

  /** The options of the next conversation: those that were used last. */
  get lastOptions() {
    try {
      return { ...standardOptions(), ...JSON.parse(read("options") ?? "{}") };
    } catch {
      return standardOptions(); // written by another version
    }
  }

  set lastOptions(options) {
    write("options", JSON.stringify(options));
  }

  async load() {
    this.conversations = await this.store.all("conversations");
    for (const turn of this.conversations.flatMap((conversation) => conversation.turns)) {
      if (turn.finish === null) turn.finish = "lost"; // the page was closed while it was written
    }
    await this.removeOrphans();
  }

  /** Remove images that no conversation has: a message that was never saved. */
  async removeOrphans() {
    const known = new Set(this.conversations.flatMap((conversation) => [...imageIds(conversation)]));
    for (const id of await this.store.ids("images")) {
      if (!known.has(id)) await this.store.remove("images", id);
    }
  }

  add(conversation) {
    this.conversations.push(conversation);
    return conversation;
  }

  async save(conversation) {
    if (!this.conversations.includes(conversation)) return; // it was removed while its answer was written
    this.changed();
    await this.put("conversations", conversation);
    this.tabs.postMessage(conversation.id);
  }

  /** Take over what another tab saved or removed, so that this one does not write an older state over it. */
  async onOtherTab(id) {
    const row = await this.store.get("conversations", id);
    const known = this.conversations.find((conversation) => conversation.id === id);
    if (known && this.isBusy(known)) return; // this tab writes it now
    this.conversations = this.conversations.filter((conversation) => conversation.id !== id);
    if (row) this.conversations.push(row);
    this.changed();
    if (row ?? known) this.changedElsewhere(row ?? known);
  }

  async keepImages(images) {
    for (const image of images) await this.put("images", image);
  }

  async put(table, row) {
    try {
      await this.store.put(table, row);
    } catch (error) {
      notify(error.name === "QuotaExceededError" ? say("storageFull") : error.message, { kind: "warning" });
    }
  }

  /** Remove a conversation if the reader agrees. Returns whether it is gone. */
  async remove(conversation, stop) {
    const title = conversation.title || say("untitled");
    if (!(await ask(say("confirmRemove", { title }), say("remove")))) return false;
    stop();
    this.conversations = this.conversations.filter((other) => other !== conversation);
    await this.store.remove("conversations", conversation.id);
    for (const id of imageIds(conversation)) await this.shelf.remove(id);
    this.tabs.postMessage(conversation.id);
    this.changed();
    return true;
  }

  async removeAll(stop) {
    if (!(await ask(say("confirmRemoveAll", { n: this.conversations.length }), say("removeAll")))) return false;
    stop();
    this.conversations = [];
    await this.store.clear("conversations");
    await this.store.clear("images");
    this.changed();
    return true;
  }

  async exportFile(conversations) {
    const file = new Blob([await exported(conversations, this.shelf)], { type: "application/json" });
    const url = URL.createObjectURL(file);
    const day = new Date().toISOString().slice(0, 10);
    make("a", { href: url, download: `conversations-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  async importFile(file) {
    try {
      if (file.size > MAX_IMPORT_BYTES) throw new Error(`${file.size} bytes, at most ${MAX_IMPORT_BYTES}`);
      const { conversations, images } = await imported(await file.text());
      await this.keepImages(images);
      for (const conversation of conversations) await this.put("conversations", this.add(conversation));
      notify(say("imported", { n: conversations.length }));
    } catch (error) {
      notify(say("importFailed", { name: file.name, why: error.message }), { kind: "warning" });
    }
    this.changed();
  }
}
