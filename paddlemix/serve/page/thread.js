// The shown turns of a conversation, and the empty page before the first one.

import { shownTurns } from "./conversation.js";
import { byId, icon, make } from "./dom.js";
import { text as say } from "./language.js";
import { TurnView } from "./turn_view.js";

// The bundled model knows only English, and LLaVA's training data is mostly English: the questions stay so.
const EXAMPLES = [
  ["example1", "Describe the picture."],
  ["example2", "Where is the star?"],
  ["example3", "How many shapes are there?"],
];
// How long after an event a scroll is the reader's, in ms. A press may be that of the scroll bar.
const MOVES = { wheel: 1000, touchmove: 3000, keydown: 1000, pointerdown: 10_000 };
const NEAR_END = 80; // px: closer to the end, the page follows an answer

export class Thread {
  constructor(context, onExample) {
    this.context = context;
    this.onExample = onExample;
    this.views = new Map();
    this.frame = byId("thread");
    this.list = byId("turns");
    this.isFollowing = true;
    this.lastTop = 0;
    this.movesUntil = 0;
    this.frameRequest = null;
    for (const [name, milliseconds] of Object.entries(MOVES)) {
      const note = () => (this.movesUntil = Date.now() + milliseconds);
      this.frame.addEventListener(name, note, { passive: true });
    }
    this.frame.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    byId("to-latest").addEventListener("click", () => this.toEnd());
    const follower = new ResizeObserver(() => this.isFollowing && this.views.size && this.toEnd());
    follower.observe(this.list);
    follower.observe(this.frame); // it shrinks when the composer grows
  }

  /** Show a conversation, null or an empty one: the welcome. Another one is shown from its end.
   *
   * Turns that are on the page already stay as they are; isFresh: they are built again, in another language.
   */
  show(conversation, { isFresh = false } = {}) {
    const isSame = conversation === this.conversation;
    const known = isSame && !isFresh ? this.views : new Map();
    const turns = conversation ? shownTurns(conversation) : [];
    this.conversation = conversation;
    this.views = new Map(turns.map((turn) => [turn.id, known.get(turn.id) ?? this.view(turn)]));
    this.put(turns.length ? [...this.views.values()].map((view) => view.element) : [this.welcome()]);
    for (const view of this.views.values()) view.update();
    document.body.classList.toggle("is-empty", !turns.length);
    if (isSame) this.noteScroll();
    else if (turns.length) this.toEnd();
    else this.toBegin();
  }

  view(turn) {
    return new TurnView(turn, { ...this.context, conversation: this.conversation });
  }

  /** Put elements into the list; those at its beginning that are there already are not moved: they keep the focus. */
  put(elements) {
    const old = [...this.list.children];
    const kept = old.findIndex((element, at) => element !== elements[at]);
    for (const element of old.slice(kept < 0 ? old.length : kept)) element.remove();
    this.list.append(...elements.slice(this.list.childElementCount));
  }

  /** Show the new state of a turn, null for all, if it is on the page. Text that streams in is shown once a frame. */
  update(conversation, turn) {
    if (conversation !== this.conversation) return;
    if (turn?.finish !== null) this.updateNow(turn);
    else this.frameRequest ??= requestAnimationFrame(() => this.updateNow(turn));
  }

  updateNow(turn) {
    cancelAnimationFrame(this.frameRequest);
    this.frameRequest = null;
    for (const view of this.views.values()) {
      if (view.turn === turn || !turn) view.update();
      else view.showActions();
    }
  }

  /** Put the focus where it was before another version was chosen: on the same button of the version now shown. */
  focusVersions(parent, step) {
    const view = [...this.views.values()].find(({ turn }) => turn.parent === parent);
    const buttons = [...view.element.querySelectorAll(".versions button")];
    if (step > 0) buttons.reverse();
    buttons.find((button) => !button.disabled)?.focus();
  }

  element(turn) {
    return this.views.get(turn.id)?.element;
  }

  toEnd() {
    this.isFollowing = true;
    this.frame.scrollTop = this.frame.scrollHeight;
    this.noteScroll();
  }

  /** Show the welcome from its heading, also where the page is too low for all of it. */
  toBegin() {
    this.isFollowing = true;
    this.frame.scrollTop = 0;
    this.noteScroll();
  }

  noteScroll() {
    const { scrollTop, clientHeight, scrollHeight } = this.frame;
    const isNearEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    // Content that grows or shrinks scrolls as well: only the reader's own move upwards lets go of the end.
    if (isNearEnd) this.isFollowing = true;
    else if (scrollTop < this.lastTop && Date.now() < this.movesUntil) this.isFollowing = false;
    this.lastTop = scrollTop;
    byId("to-latest").hidden = this.isFollowing || !this.views.size;
  }

  welcome() {
    const cards = EXAMPLES.map(([key, question]) =>
      make(
        "button",
        { type: "button", class: "example", click: () => this.onExample(question) },
        make("strong", {}, say(key)),
        make("span", { lang: "en" }, question),
        icon("send"),
      ),
    );
    return make(
      "div",
      { class: "welcome" },
      make("h2", {}, say("welcome")),
      make("p", { class: "lead" }, say(matchMedia("(hover: none)").matches ? "welcomeTouch" : "welcomeMore")),
      make(
        "section",
        { class: "try", "aria-label": say("tryExample") },
        make(
          "figure",
          {},
          make("img", { src: "example.png", alt: say("tryExample"), width: 360, height: 360 }),
          make("figcaption", {}, say("tryExample")),
        ),
        make("div", { class: "examples" }, cards),
      ),
    );
  }
}
