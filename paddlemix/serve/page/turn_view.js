// One turn on the page: a question with its images, or an answer as it is written, with what can be done with it.

import { copyButton } from "./clipboard.js";
import { versions } from "./conversation.js";
import { icon, iconButton, make, textButton } from "./dom.js";
import { explain, serverSays } from "./failure.js";
import { imageTile } from "./image_tile.js";
import { number, text as say } from "./language.js";
import { MarkdownView } from "./markdown_view.js";

const brief = (seconds) => number(Math.max(seconds, 0.1), { maximumFractionDigits: seconds < 10 ? 1 : 0 });

/** do: what the reader can do: {edit, regenerate, continueAnswer, chooseVersion, stop, retryNow, openImage, enterKey}. */
export class TurnView {
  constructor(turn, { conversation, shelf, answering, status, todo }) {
    Object.assign(this, { turn, conversation, shelf, answering, status, todo });
    const name = make("h2", { class: "unseen" }, say(turn.role === "user" ? "you" : "assistant"));
    this.content = turn.role === "user" ? this.question() : this.answer();
    this.state = make("div", { class: "turn-state" });
    this.actions = make("div", { class: "turn-actions", role: "group" });
    this.element = make(
      "article",
      { class: `turn ${turn.role}`, "data-turn": turn.id },
      name,
      this.content,
      this.state,
      this.actions,
    );
    this.update();
  }

  question() {
    const images = make("div", { class: "turn-images" });
    this.showImages(images);
    return make(
      "div",
      { class: "bubble-frame" },
      images,
      this.turn.text && make("div", { class: "bubble" }, this.turn.text),
    );
  }

  async showImages(frame) {
    for (const id of this.turn.images) {
      const image = await this.shelf.get(id);
      frame.append(
        image
          ? imageTile(image, this.shelf, { onOpen: (shown) => this.todo.openImage(shown) })
          : make("p", { class: "quiet" }, say("imageGone")),
      );
    }
  }

  answer() {
    this.markdown = new MarkdownView();
    return this.markdown.element;
  }

  /** Show the present state. Cheap enough for every piece of a streamed answer. */
  update() {
    if (this.turn.role === "assistant") {
      this.markdown.show(this.turn.text);
      this.element.classList.toggle("is-writing", this.isWriting);
      this.element.setAttribute("aria-busy", String(this.isWriting));
      this.showState();
    }
    this.showActions();
  }

  get isWriting() {
    return this.turn.finish === null && this.turn.role === "assistant";
  }

  showState() {
    const pause = this.answering.pause(this.turn);
    if (pause) return this.showPause(pause);
    this.pauseText = null;
    const { error, finish } = this.turn;
    const isWaiting = this.isWriting && !this.turn.text;
    const numWaiting = this.status.info.num_waiting;
    const key = JSON.stringify([error, finish, isWaiting, numWaiting]);
    if (key === this.shownState) return;
    this.shownState = key;
    const notes = { stopped: "finishStopped", length: "finishLength", lost: "finishLost" };
    if (isWaiting)
      this.state.replaceChildren(waitingSign(numWaiting ? say("waitingInQueue", { n: numWaiting }) : say("waiting")));
    else if (error) this.state.replaceChildren(this.errorCard(error));
    else if (notes[finish]) this.state.replaceChildren(make("p", { class: "finish-note" }, say(notes[finish])));
    else this.state.replaceChildren();
  }

  showPause(pause) {
    const seconds = Math.max(0, Math.ceil((pause.until - Date.now()) / 1000));
    this.shownState = null;
    if (this.pauseText) {
      this.pauseText.textContent = say("busyMore", { seconds });
      return;
    }
    this.pauseText = make("span", { class: "countdown" }, say("busyMore", { seconds }));
    const title = say(pause.status === 429 ? "busyTitle" : "loadingTitle");
    this.state.replaceChildren(
      card(
        "clock",
        "busy",
        title,
        [this.pauseText, pause.message && make("span", { class: "quiet" }, serverSays(pause))],
        [textButton(say("retryNow"), () => this.todo.retryNow()), textButton(say("cancel"), () => this.todo.stop())],
      ),
    );
  }

  errorCard(error) {
    const { title, details, action } = explain(error);
    const buttons = {
      key: () => textButton(say("enterKey"), () => this.todo.enterKey(this.turn), { iconName: "key", kind: "strong" }),
      retry: () => textButton(say("tryAgain"), () => this.todo.retry(this.turn), { iconName: "retry", kind: "strong" }),
    };
    const element = card(action === "key" ? "key" : "warning", "failed", title, details, buttons[action]?.());
    element.setAttribute("role", "alert");
    return element;
  }

  showActions() {
    const all = versions(this.conversation, this.turn);
    const { role, finish, text } = this.turn;
    const isBusy = this.answering.isRunning(this.conversation);
    const key = JSON.stringify([isBusy, finish, all.length, all.indexOf(this.turn), Boolean(text)]);
    if (key === this.shownActions) return;
    this.shownActions = key;
    this.actions.replaceChildren();
    if (this.isWriting) return;
    if (all.length > 1) this.actions.append(this.versionSwitch(all, isBusy));
    if (text) this.actions.append(copyButton(() => this.turn.text, say("copy")));
    const disabled = { disabled: isBusy };
    if (role === "user")
      this.actions.append(iconButton("edit", say("edit"), () => this.todo.edit(this.turn), disabled));
    else this.showAnswerActions(disabled);
  }

  showAnswerActions(disabled) {
    const { error, finish, text } = this.turn;
    if (!error || !explain(error).action) { // otherwise the error has a button
      const again = () => (text ? this.todo.regenerate(this.turn) : this.todo.retry(this.turn));
      this.actions.append(iconButton("retry", say("regenerate"), again, disabled));
    }
    if (text && ["stopped", "length", "lost", "failed"].includes(finish)) {
      this.actions.append(iconButton("play", say("continue"), () => this.todo.continueAnswer(this.turn), disabled));
    }
    this.actions.append(this.stats());
  }

  versionSwitch(all, isBusy) {
    const at = all.indexOf(this.turn);
    const step = (by) => () => this.todo.chooseVersion(this.turn, by);
    return make(
      "div",
      { class: "versions", role: "group", "aria-label": say("version", { at: at + 1, of: all.length }) },
      iconButton("left", say("previousVersion"), step(-1), { disabled: isBusy || at === 0 }),
      make("span", {}, `${at + 1}/${all.length}`),
      iconButton("right", say("nextVersion"), step(1), { disabled: isBusy || at === all.length - 1 }),
    );
  }

  stats() {
    const { usage, seconds, firstSeconds } = this.turn;
    if (!usage || !seconds) return "";
    const tokens = usage.completion_tokens;
    const writing = seconds - firstSeconds;
    const parts = [say("answerStats", { tokens: number(tokens), seconds: brief(seconds) })];
    if (tokens > 1 && writing > 0.2) parts.push(say("answerRate", { rate: brief((tokens - 1) / writing) }));
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    const more = { prompt: number(usage.prompt_tokens), cached: number(cached), first: brief(firstSeconds) };
    return make("span", { class: "stats", title: say("promptStats", more) }, parts.join(" · "));
  }
}

function waitingSign(words) {
  const tiles = make(
    "span",
    { class: "tiles-sign", "aria-hidden": "true" },
    [1, 2, 3, 4].map(() => make("i")),
  );
  return make("p", { class: "waiting" }, tiles, words);
}

function card(iconName, kind, title, details, buttons) {
  const words = make(
    "div",
    { class: "card-words" },
    make("strong", {}, title),
    details.filter(Boolean).map((detail) => make("p", {}, detail)),
  );
  const row = buttons && make("div", { class: "card-buttons" }, buttons);
  return make("div", { class: `card ${kind}` }, icon(iconName), words, row);
}
