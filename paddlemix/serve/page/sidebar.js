// The list of conversations: search, open, rename, export, delete.

import { contains } from "./conversation.js";
import { byId, icon, iconButton, make } from "./dom.js";
import { moment, text as say } from "./language.js";

const DAY = 24 * 3600 * 1000;

/** todo: {open, rename, exportOne, remove}. list() returns the conversations, current() the one that is shown. */
export class Sidebar {
  constructor({ list, current, isRunning, todo }) {
    Object.assign(this, { list, current, isRunning, todo });
    this.isRenaming = false;
    this.search = byId("search");
    this.search.addEventListener("input", () => this.show());
    this.search.addEventListener("keydown", (event) => this.onSearchKey(event));
    byId("open-sidebar").addEventListener("click", () => this.toggle(true));
    byId("close-sidebar").addEventListener("click", () => this.toggle(false));
    byId("sidebar-veil").addEventListener("click", () => this.toggle(false));
    this.narrow = matchMedia("(max-width: 859px)");
    this.narrow.addEventListener("change", () => this.toggle(false));
    this.toggle(false);
  }

  /** Open or close it where it lies over the page. Elsewhere it is always there. */
  toggle(isOpen) {
    const wasOpen = document.body.classList.contains("has-sidebar");
    document.body.classList.toggle("has-sidebar", isOpen);
    byId("sidebar").inert = this.narrow.matches && !isOpen;
    byId("main").inert = this.narrow.matches && isOpen;
    byId("open-sidebar").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) byId("close-sidebar").focus();
    else if (wasOpen) byId("open-sidebar").focus();
  }

  get isOpen() {
    return document.body.classList.contains("has-sidebar");
  }

  focusSearch() {
    if (this.narrow.matches) this.toggle(true);
    this.search.focus();
    this.search.select();
  }

  onSearchKey(event) {
    if (event.key === "Enter" && this.search.value && this.found[0]) this.todo.open(this.found[0]);
    if (event.key !== "Escape" || !this.search.value) return;
    event.stopPropagation();
    this.search.value = "";
    this.show();
  }

  /** Show the list anew; the focus stays on its button. A name that is being written is left alone. */
  show() {
    if (this.isRenaming) return;
    const words = this.search.value.trim();
    const sorted = [...this.list()].sort((one, other) => other.updatedAt - one.updatedAt);
    this.found = sorted.filter((conversation) => !words || contains(conversation, words));
    const groups = groupBy(this.found, dayOf);
    const shown = [...groups].map(([day, rows]) =>
      make(
        "section",
        {},
        make("h3", {}, say(day)),
        make(
          "ul",
          {},
          rows.map((conversation) => this.row(conversation)),
        ),
      ),
    );
    const empty = make("p", { class: "empty-list" }, words ? say("nothingFound", { words }) : say("noConversations"));
    const focused = placeOf(document.activeElement);
    byId("conversations").replaceChildren(...(shown.length ? shown : [empty]));
    if (focused) byId("conversations").querySelector(focused)?.focus();
  }

  row(conversation) {
    const title = conversation.title || say("untitled");
    const isCurrent = conversation === this.current();
    const open = make(
      "button",
      {
        type: "button",
        class: "open",
        title: `${title}\n${moment(conversation.updatedAt)}`,
        "aria-current": isCurrent ? "page" : null,
        click: () => this.todo.open(conversation),
      },
      this.isRunning(conversation) && make("i", { class: "running", role: "img", "aria-label": say("answering") }),
      make("span", {}, title),
    );
    const row = make(
      "li",
      { class: isCurrent ? "is-current" : null, "data-id": conversation.id },
      open,
      iconButton("edit", `${say("rename")}: ${title}`, () => this.rename(row, conversation)),
      iconButton("export", `${say("exportOne")}: ${title}`, () => this.todo.exportOne(conversation)),
      iconButton("trash", `${say("remove")}: ${title}`, () => this.todo.remove(conversation)),
    );
    return row;
  }

  rename(row, conversation) {
    const field = make("input", {
      class: "rename",
      "aria-label": say("renameLabel"),
      maxlength: "120",
      blur: () => end(true),
      keydown: (event) => onKey(event),
    });
    let isOver = false;
    const end = (isKept) => {
      if (isOver) return;
      isOver = true;
      this.isRenaming = false;
      const title = field.value.trim();
      if (isKept && title && title !== conversation.title) this.todo.rename(conversation, title);
      else this.show();
    };
    const onKey = (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") event.stopPropagation();
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault(); // the focus moves to a button, which Enter must not press
      end(event.key === "Enter");
    };
    this.isRenaming = true;
    field.value = conversation.title;
    row.replaceChildren(field);
    field.select();
  }
}

/** Return a selector of a button of the list, null for anything else. */
function placeOf(element) {
  const row = element?.closest("#conversations li");
  return row && `li[data-id="${row.dataset.id}"] > :nth-child(${[...row.children].indexOf(element) + 1})`;
}

function dayOf({ updatedAt }) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (updatedAt >= midnight) return "today";
  return updatedAt >= midnight - DAY ? "yesterday" : "earlier";
}

function groupBy(rows, key) {
  const groups = new Map();
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return groups;
}

/** Show the server's state beside the name of the model. */
export function showStatus({ state, info, isBusy, model }) {
  const words =
    state !== "ready"
      ? say({ loading: "statusLoading", stopping: "statusStopping", offline: "statusOffline", key: "statusKey" }[state])
      : isBusy
        ? say("statusBusy", { running: info.num_running, waiting: info.num_waiting })
        : say("statusReady");
  byId("status").className = `status ${state}${state === "ready" && isBusy ? " busy" : ""}`;
  byId("status-model").textContent = model;
  byId("status-words").textContent = words;
  byId("status-icon").replaceChildren(...({ offline: [icon("warning")], key: [icon("key")] }[state] ?? []));
}
