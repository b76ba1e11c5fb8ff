// Blocks of a Markdown text: headings, lists, tables, quotes, code, rules and paragraphs. No HTML: a tag is text.
//
// A block is {type, source, ...}; equal sources give equal blocks, so a view may keep what did not change.

const MAX_DEPTH = 8; // deeper lists and quotes stay text
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:(\s+)(.*)|)$/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Return the blocks of a text, or of lines. */
export function parseBlocks(text, depth = 0) {
  const lines = Array.isArray(text) ? text : text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, end] = readBlock(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readCode(lines, at);
  if (HEADING.test(line)) return readHeading(line, at);
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, depth);
  if (isTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at, depth);
}

/** Return whether a paragraph ends before this line. */
function startsBlock(lines, at, depth) {
  const line = lines[at];
  if (!line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || isTable(lines, at)) return true;
  if (depth >= MAX_DEPTH) return false;
  return QUOTE.test(line) || /^ {0,3}(?:[-*+]|1[.)])\s+\S/.test(line);
}

function readParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && !startsBlock(lines, end, depth)) end += 1;
  return [
    {
      type: "paragraph",
      text: lines
        .slice(at, end)
        .map((line) => line.trim())
        .join("\n"),
    },
    end,
  ];
}

function readHeading(line, at) {
  const [, marks, text = ""] = HEADING.exec(line);
  return [{ type: "heading", level: marks.length, text }, at + 1];
}

/** Read code up to its closing fence, or to the end: an answer that is still being written has none yet. */
function readCode(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  const indent = lines[at].search(/\S/);
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const inner = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, Math.max(0, line.search(/\S/)))));
  return [
    { type: "code", language, text: inner.join("\n"), isOpen: end >= lines.length },
    Math.min(end + 1, lines.length),
  ];
}

function readQuote(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && (QUOTE.test(lines[end]) || !startsBlock(lines, end, depth))) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: parseBlocks(inner, depth + 1) }, end];
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(first[2]);
  const list = {
    type: "list",
    isOrdered,
    start: isOrdered ? Number.parseInt(first[2], 10) : 1,
    isLoose: false,
    items: [],
  };
  let place = at;
  while (place < lines.length && isSibling(lines[place], first, isOrdered)) {
    const item = readItem(lines, place, depth);
    list.items.push(item.blocks);
    list.isLoose ||= item.hasGap;
    const next = skipBlank(lines, item.end);
    const hasNext = next < lines.length && isSibling(lines[next], first, isOrdered);
    list.isLoose ||= hasNext && next > item.end;
    place = hasNext ? next : item.end;
    if (!hasNext) break;
  }
  return [list, place];
}

function isSibling(line, first, isOrdered) {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return false;
  return /\d/.test(match[2]) === isOrdered && match[1].length < first[1].length + 2;
}

function readItem(lines, at, depth) {
  const [, space, mark, gap = " ", text = ""] = ITEM.exec(lines[at]);
  const indent = space.length + mark.length + Math.min(gap.length, 4);
  const inner = [text];
  let end = at + 1;
  let hasGap = false;
  while (end < lines.length) {
    const next = skipBlank(lines, end);
    if (next >= lines.length) break;
    const isInside = lines[next].search(/\S/) >= Math.min(indent, space.length + 2);
    if (!isInside && (next > end || startsBlock(lines, end, depth) || ITEM.test(lines[end]))) break;
    if (next > end) hasGap ||= !ITEM.test(lines[next]);
    for (; end <= next; end += 1) inner.push(lines[end].slice(Math.min(indent, Math.max(0, lines[end].search(/\S/)))));
  }
  return { blocks: parseBlocks(inner, depth + 1), end, hasGap };
}

function skipBlank(lines, at) {
  let place = at;
  while (place < lines.length && !lines[place].trim()) place += 1;
  return place;
}

function isTable(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || !lines[at].includes("|") || !DELIMITERS.test(next) || !next.includes("-")) return false;
  return cells(lines[at]).length === cells(next).length;
}

function readTable(lines, at) {
  const alignments = cells(lines[at + 1]).map((cell) => {
    const [isLeft, isRight] = [cell.startsWith(":"), cell.endsWith(":")];
    return isRight ? (isLeft ? "center" : "right") : "left";
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
  const rows = lines.slice(at + 2, end).map((line) => {
    const row = cells(line);
    return alignments.map((_, column) => row[column] ?? "");
  });
  return [{ type: "table", alignments, head: cells(lines[at]), rows }, end];
}

/** Return the cells of a row. A bar after a backslash or within code does not end one. */
function cells(line) {
  const inner = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "");
  const found = [""];
  let isCode = false;
  for (let at = 0; at < inner.length; at += 1) {
    if (inner[at] === "\\" && inner[at + 1] === "|") {
      found[found.length - 1] += "|";
      at += 1;
    } else if (inner[at] === "|" && !isCode) found.push("");
    else {
      if (inner[at] === "`") isCode = !isCode;
      found[found.length - 1] += inner[at];
    }
  }
  return found.map((cell) => cell.trim());
}
