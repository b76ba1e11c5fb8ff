// The page: its parts, and what they do to the conversations.

import { announce } from "./announcer.js";
import { Answering } from "./answering.js";
import { standardOptions } from "./chat_request.js";
import { acceptEverywhere, Composer } from "./composer.js";
import { numShownImages } from "./conversation.js";
import { askKey, showImage } from "./dialogs.js";
import { byId, icon } from "./dom.js";
import { ImageShelf } from "./images.js";
import { switchLanguage, text as say, translatePage } from "./language.js";
import { Library } from "./library.js";
import { showMeter } from "./meter.js";
import { notify } from "./notices.js";
import { read, write } from "./preferences.js";
import { ServerStatus } from "./server_status.js";
import { SettingsPanel } from "./settings_panel.js";
import { listenToKeys, showShortcuts } from "./shortcuts.js";
import { showStatus, Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { nextTheme, showTheme } from "./theme_button.js";
import { Thread } from "./thread.js";
import { TurnActions } from "./turn_actions.js";

const ICONS = {
  "close-sidebar": "close",
  language: "language",
  "show-shortcuts": "keyboard",
  "show-settings": "sliders",
  "open-sidebar": "menu",
  "show-settings-bar": "sliders",
  "to-latest": "down",
};

class App {
  constructor(store) {
    this.current = null;
    this.shelf = new ImageShelf(store);
    this.status = new ServerStatus((before) => this.onStatus(before));
    this.library = new Library({
      store,
      shelf: this.shelf,
      changed: () => this.sidebar.show(),
      changedElsewhere: (row) => this.onOtherTab(row),
      isBusy: (row) => this.answering.isRunning(row) || (row === this.current && this.turns.editor !== null),
    });
    this.answering = new Answering({
      shelf: this.shelf,
      modelName: () => this.status.model,
      changed: (conversation, turn) => this.onAnswer(conversation, turn),
      save: (row) => this.library.save(row),
    });
    this.buildParts();
    this.listen();
  }

  buildParts() {
    const { shelf, status, answering } = this;
    this.turns = new TurnActions(this);
    this.composer = new Composer({
      shelf,
      status,
      openImage: (image) => showImage(image, shelf),
      onSend: (message) => this.turns.send(message),
      numOther: () => (this.current ? numShownImages(this.current) : 0),
      onStop: () => this.turns.stop(),
      onUp: () => this.turns.editLast(),
    });
    byId("composer-place").append(this.composer.element);
    this.thread = new Thread({ shelf, answering, status, todo: this.turns }, (text) => this.turns.sendExample(text));
    this.sidebar = new Sidebar({
      list: () => this.library.conversations,
      current: () => this.current,
      isRunning: (conversation) => answering.isRunning(conversation),
      todo: {
        open: (row) => this.open(row),
        rename: (row, title) => this.rename(row, title),
        exportOne: (row) => this.library.exportFile([row]),
        remove: (row) => this.remove(row),
      },
    });
    this.settings = new SettingsPanel({
      status,
      options: () => this.options,
      todo: {
        changeOptions: (changes) => this.changeOptions(changes),
        changeKey: (key) => this.changeKey(key),
        exportAll: () => this.library.exportFile(this.library.conversations),
        importFile: (file) => this.library.importFile(file),
        removeAll: () => this.removeAll(),
        showShortcuts,
      },
    });
  }

  listen() {
    for (const [id, name] of Object.entries(ICONS)) byId(id).append(icon(name));
    byId("new-conversation").prepend(icon("plus"));
    const on = (id, action) => byId(id).addEventListener("click", action);
    on("new-conversation", () => this.open(null));
    on("theme", nextTheme);
    on("language", () => {
      switchLanguage();
      this.show();
    });
    on("show-shortcuts", () => showShortcuts());
    on("show-settings", () => this.settings.open());
    on("show-settings-bar", () => this.settings.open());
    acceptEverywhere(() => this.turns.editor ?? this.composer);
    listenToKeys({
      newConversation: () => this.open(null),
      search: () => this.sidebar.focusSearch(),
      neighbor: (step) => this.openNeighbor(step),
      settings: () => this.settings.open(),
      escape: () => this.escape(),
      focusMessage: () => this.composer.focus(),
      regenerate: () => this.turns.regenerateLast(),
    });
    addEventListener("hashchange", () => this.openNamed());
  }

  async start() {
    await this.library.load();
    this.show();
    this.openNamed();
    this.focusComposer();
    if (!this.library.isLasting) notify(say("notLasting"), { kind: "warning" });
    await this.status.watch();
    if (this.status.state === "key") await this.enterKey(null);
  }

  /** Show everything in the present language. */
  show() {
    translatePage();
    showTheme();
    this.composer.translate();
    this.sidebar.show();
    this.showTurns({ isFresh: true });
    this.showFrame();
  }

  showTurns(options) {
    this.turns.leaveEditor();
    this.thread.show(this.current, options);
  }

  /** Put the focus into the message field, but not where that opens a keyboard over the page. */
  focusComposer() {
    if (matchMedia("(hover: hover)").matches) this.composer.focus();
  }

  /** Show what is around the turns: title, status, meter, and whether an answer is being written. */
  showFrame() {
    const title = this.current && (this.current.title || say("untitled"));
    byId("title").textContent = title ?? say("newConversation");
    document.title = title ? `${title} · LLaVA` : "LLaVA";
    this.composer.setBusy(Boolean(this.current) && this.answering.isRunning(this.current));
    showStatus(this.status);
    showMeter(this.current, this.status.info.max_model_len);
  }

  // Conversations

  get options() {
    return this.current?.options ?? this.library.lastOptions;
  }

  changeOptions(changes) {
    this.library.lastOptions = { ...standardOptions(), ...this.options, ...changes };
    if (!this.current) return;
    this.current.options = this.library.lastOptions;
    this.library.save(this.current);
  }

  open(conversation) {
    this.current = conversation;
    history.replaceState(null, "", conversation ? `#${conversation.id}` : location.pathname);
    if (this.sidebar.isOpen) this.sidebar.toggle(false);
    this.showTurns();
    this.sidebar.show();
    this.showFrame();
    this.focusComposer();
  }

  openNamed() {
    const named = this.library.conversations.find(({ id }) => id === location.hash.slice(1));
    if (named && named !== this.current) this.open(named);
  }

  openNeighbor(step) {
    const { found } = this.sidebar;
    const next = found[this.current ? found.indexOf(this.current) + step : 0];
    if (next) this.open(next);
  }

  rename(conversation, title) {
    Object.assign(conversation, { title, isNamed: true });
    this.library.save(conversation);
    this.showFrame();
  }

  async remove(conversation) {
    if (!(await this.library.remove(conversation, () => this.answering.stop(conversation)))) return;
    if (conversation === this.current) this.open(null);
  }

  async removeAll() {
    const stopAll = () => this.library.conversations.forEach((row) => this.answering.stop(row));
    if (!(await this.library.removeAll(stopAll))) return;
    byId("settings").close();
    this.open(null);
  }

  escape() {
    if (this.sidebar.isOpen) this.sidebar.toggle(false);
    else this.turns.stop();
  }

  // The server and this browser

  /** Show what another tab did to the conversation that is open. */
  onOtherTab(conversation) {
    if (this.current?.id !== conversation.id) return;
    this.current = this.library.conversations.includes(conversation) ? conversation : null;
    this.showTurns();
    this.showFrame();
  }

  onAnswer(conversation, turn) {
    this.thread.update(conversation, turn);
    if (conversation === this.current && turn.finish !== null) this.showFrame();
  }

  onStatus(before) {
    const { state, model } = this.status;
    this.shelf.serve(model);
    if (before === "offline" && state === "ready") notify(say("serverBack"));
    if (before !== "offline" && state === "offline") announce(say("statusOffline"));
    this.showFrame();
    this.settings.refresh();
    if (this.current && this.answering.isRunning(this.current)) this.thread.update(this.current, null);
    if (before !== state && model) this.composer.showTray();
    if (before === "loading" && state === "ready" && !this.turns.editor) this.showTurns({ isFresh: true }); // with counts of tiles
  }

  async enterKey(turn) {
    if (byId("question").open) return;
    const key = await askKey(read("key") ? say("keyWrong") : null);
    if (!key) return;
    await this.changeKey(key);
    if (turn) await this.turns.retry(turn);
  }

  changeKey(key) {
    write("key", key);
    return this.status.look();
  }
}

new App(await openStore()).start();
