// Show a Markdown text that grows: only the blocks that changed are built again.

import { copyButton } from "./clipboard.js";
import { make } from "./dom.js";
import { text as say } from "./language.js";
import { parseBlocks } from "./markdown_blocks.js";
import { parseInline } from "./markdown_inline.js";

const SHORT = 14; // characters of a cell that is not broken into lines

export class MarkdownView {
  constructor() {
    this.element = make("div", { class: "markdown" });
    this.sources = [];
  }

  /** Show a text; the beginning that equals the last one keeps its elements, and with them the reader's selection. */
  show(text) {
    const blocks = parseBlocks(text);
    let kept = 0;
    while (kept < blocks.length && keyOf(blocks[kept]) === this.sources[kept]) kept += 1;
    while (this.element.childNodes.length > kept) this.element.lastChild.remove();
    this.element.append(...blocks.slice(kept).map(showBlock));
    this.sources = blocks.map(keyOf);
  }
}

const keyOf = (block) => `${block.type} ${block.source}`;

function showBlock(block) {
  return SHOWN[block.type](block);
}

const SHOWN = {
  paragraph: (block) => make("p", {}, inline(block.text)),
  heading: (block) => make(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, inline(block.text)),
  rule: () => make("hr"),
  quote: (block) => make("blockquote", {}, block.blocks.map(showBlock)),
  list: showList,
  table: showTable,
  code: showCode,
};

function showList(list) {
  const items = list.items.map((blocks) => make("li", {}, list.isLoose ? blocks.map(showBlock) : tight(blocks)));
  return make(list.isOrdered ? "ol" : "ul", { start: list.isOrdered && list.start !== 1 ? list.start : null }, items);
}

/** Return the content of an item without space around its text. */
function tight(blocks) {
  return blocks.map((block) => (block.type === "paragraph" ? inline(block.text) : showBlock(block))).flat();
}

function showTable(table) {
  const row = (cells, tag) =>
    make(
      "tr",
      {},
      cells.map((cell, column) =>
        make(tag, { class: `align-${table.alignments[column]}${cell.length > SHORT ? "" : " short"}` }, inline(cell)),
      ),
    );
  const head = make("thead", {}, row(table.head, "th"));
  const body = make(
    "tbody",
    {},
    table.rows.map((cells) => row(cells, "td")),
  );
  return make(
    "div",
    { class: "table-frame", tabindex: "0", role: "region", "aria-label": say("table") },
    make("table", {}, head, body),
  );
}

function showCode(block) {
  const name = block.language.slice(0, 40);
  const bar = make(
    "div",
    { class: "code-bar" },
    make("span", {}, name || say("code")),
    copyButton(() => block.text, say("copyCode")),
  );
  const pre = make("pre", { tabindex: "0", "aria-label": name || say("code") }, make("code", {}, block.text));
  return make("div", { class: "code-block" }, bar, pre);
}

function inline(text) {
  return parseInline(text).map(showNode);
}

function showNode(node) {
  if (node.type === "text") return document.createTextNode(node.text);
  if (node.type === "break") return make("br");
  if (node.type === "code") return make("code", {}, node.text);
  const children = node.children.map(showNode);
  if (node.type !== "link") return make(node.type, {}, children);
  return make("a", { href: node.url, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}
