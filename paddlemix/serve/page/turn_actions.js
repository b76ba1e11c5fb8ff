// What a reader does with turns: send, regenerate, edit, continue, choose a version, stop.

import { addTurn, chooseVersion, newConversation, numShownImages, parentOf, shownTurns } from "./conversation.js";
import { showImage } from "./dialogs.js";
import { editInPlace } from "./editing.js";
import { readImage } from "./images.js";
import { text as say } from "./language.js";
import { notify } from "./notices.js";

export class TurnActions {
  constructor(app) {
    this.app = app;
    this.editor = null; // the composer in place of a question
  }

  get conversation() {
    return this.app.current;
  }

  /** Add a message to the end of the conversation, or start one with it. */
  async send(message) {
    const { app } = this;
    if (!app.current) {
      app.current = app.library.add(newConversation(app.library.lastOptions));
      history.replaceState(null, "", `#${app.current.id}`);
    }
    await this.ask(shownTurns(app.current).at(-1) ?? null, message);
  }

  async sendExample(text) {
    let file;
    try {
      const response = await fetch("example.png");
      file = new File([await response.blob()], "example.png", { type: "image/png" });
    } catch {
      return notify(say("offlineTitle"), { kind: "warning" });
    }
    await this.send({ text, images: [await readImage(file, this.app.status.limits)] });
    this.app.focusComposer();
  }

  /** Add a question below a turn (null: a first one) and answer it. */
  async ask(parent, { text, images }) {
    const { conversation } = this;
    await this.app.library.keepImages(images);
    const question = addTurn(conversation, parent, { role: "user", text, images: images.map(({ id }) => id) });
    await this.answerBelow(conversation, question);
  }

  async answerBelow(conversation, question) {
    const turn = addTurn(conversation, question, { role: "assistant", finish: null });
    if (conversation === this.conversation) {
      this.app.showTurns();
      this.app.thread.toEnd();
      if (document.activeElement === document.body) this.app.focusComposer(); // the button that was pressed is gone
    }
    await this.answer(conversation, turn);
  }

  async answer(conversation, turn, options) {
    const { app } = this;
    if (app.answering.isRunning(conversation)) return;
    if (!options?.isContinued) turn.text = "";
    app.library.save(conversation);
    const done = app.answering.start(conversation, turn, options);
    app.status.look();
    app.showFrame();
    app.sidebar.show();
    await done;
    app.sidebar.show();
    app.status.lookSoon();
    if (turn.error?.status === 401 && conversation === this.conversation) await app.enterKey(turn);
  }

  stop() {
    if (this.conversation) this.app.answering.stop(this.conversation);
  }

  retryNow() {
    this.app.answering.retryNow(this.conversation);
  }

  retry(turn) {
    return this.answer(this.conversation, turn);
  }

  continueAnswer(turn) {
    return this.answer(this.conversation, turn, { isContinued: true });
  }

  regenerate(turn) {
    return this.answerBelow(this.conversation, parentOf(this.conversation, turn));
  }

  regenerateLast() {
    const last = this.conversation && shownTurns(this.conversation).at(-1);
    if (last?.role === "assistant" && !this.app.answering.isRunning(this.conversation)) this.regenerate(last);
  }

  chooseVersion(turn, step) {
    chooseVersion(this.conversation, turn, step);
    this.app.library.save(this.conversation);
    this.app.showTurns();
    this.app.showFrame();
    this.app.thread.focusVersions(turn.parent, step);
  }

  async edit(turn) {
    const { app, conversation } = this;
    if (app.answering.isRunning(conversation)) return;
    this.leaveEditor();
    const openImage = (image) => this.openImage(image);
    const numOther = () => numShownImages(conversation, turn);
    const parts = { shelf: app.shelf, status: app.status, openImage, numOther };
    const message = await editInPlace(turn, app.thread.element(turn), parts, (editor) => (this.editor = editor));
    this.editor = null;
    if (message && conversation === this.conversation) await this.ask(parentOf(conversation, turn), message);
  }

  editLast() {
    const last = this.conversation && shownTurns(this.conversation).findLast((turn) => turn.role === "user");
    if (last) this.edit(last);
  }

  /** Leave a question that is edited as it was. */
  leaveEditor() {
    this.editor?.onCancel();
  }

  openImage(image) {
    return showImage(image, this.app.shelf);
  }

  enterKey(turn) {
    return this.app.enterKey(turn);
  }
}
