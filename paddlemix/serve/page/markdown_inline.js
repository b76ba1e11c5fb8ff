// Emphasis, code, links and line breaks of a text as a list of nodes. Knows nothing of HTML: a tag is text.
//
// A node is {type: "text" | "code", text}, {type: "break"}, {type: "strong" | "em" | "del", children} or
// {type: "link", url, children}.

const MAX_DEPTH = 6; // deeper emphasis stays text
const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const BARE_URL = /https?:\/\/[^\s<>"'`，。；：！？、（）《》「」【】]{1,2000}/y;
const WORD = /[\p{L}\p{N}]/u;

/** Return the URL if it is one of the web, otherwise null. */
export function webUrl(text) {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** Return the nodes of a text. */
export function parseInline(text, depth = 0) {
  const scan = { text, at: 0, depth, nodes: [], missing: new Set() };
  while (scan.at < text.length) {
    if (!readSpecial(scan)) readPlain(scan);
  }
  return scan.nodes;
}

function readSpecial(scan) {
  const character = scan.text[scan.at];
  if (character === "\n") return push(scan, { type: "break" }, 1);
  if (character === "\\" && ESCAPABLE.test(scan.text[scan.at + 1] ?? ""))
    return addText(scan, scan.text[scan.at + 1], 2);
  if (character === "`") return readCode(scan);
  if (character === "[" || (character === "!" && scan.text[scan.at + 1] === "[")) return readLink(scan);
  if (character === "h") return readBareUrl(scan);
  if (character === "*" || character === "_" || character === "~") return readMark(scan);
  return false;
}

function readPlain(scan) {
  const next = scan.text.slice(scan.at + 1).search(/[\\`[!*_~h\n]/);
  const end = next < 0 ? scan.text.length : scan.at + 1 + next;
  addText(scan, scan.text.slice(scan.at, end), end - scan.at);
}

function push(scan, node, length) {
  scan.nodes.push(node);
  scan.at += length;
  return true;
}

function addText(scan, text, length) {
  const last = scan.nodes.at(-1);
  if (last?.type === "text") last.text += text;
  else scan.nodes.push({ type: "text", text });
  scan.at += length;
  return true;
}

function readCode(scan) {
  const fence = /`+/y;
  fence.lastIndex = scan.at;
  const marks = fence.exec(scan.text)[0];
  const start = scan.at + marks.length;
  let end = find(scan, marks, start);
  while (end >= 0 && scan.text[end + marks.length] === "`") {
    fence.lastIndex = end; // a longer run of marks does not close it
    end = scan.text.indexOf(marks, end + fence.exec(scan.text)[0].length);
  }
  if (end < 0) return addText(scan, marks, marks.length);
  const inner = scan.text.slice(start, end).replaceAll("\n", " ");
  const isPadded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
  return push(scan, { type: "code", text: isPadded ? inner.slice(1, -1) : inner }, end + marks.length - scan.at);
}

/** Return where a mark is next, -1 if nowhere. What was not found once is not searched again: linear for hostile text. */
function find(scan, mark, from) {
  if (scan.missing.has(mark)) return -1;
  const place = scan.text.indexOf(mark, from);
  if (place < 0) scan.missing.add(mark);
  return place;
}

function readLink(scan) {
  const open = scan.text.indexOf("[", scan.at);
  const middle = find(scan, "](", open);
  if (middle < 0 || middle - open > 1000 || scan.depth >= MAX_DEPTH) return false;
  const label = scan.text.slice(open + 1, middle);
  const match = /^\s*<?([^\s<>]*?)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(scan.text.slice(middle + 2, middle + 2050));
  if (!match || label.includes("[")) return false;
  const length = middle + 2 + match[0].length - scan.at;
  const children = parseInline(label || match[1], scan.depth + 1);
  const url = webUrl(match[1]);
  // An image of the answer is a link as well: the page loads nothing from elsewhere. Other schemes stay text.
  return url
    ? push(scan, { type: "link", url, children }, length)
    : addText(scan, scan.text.substr(scan.at, length), length);
}

function readBareUrl(scan) {
  if (scan.at > 0 && WORD.test(scan.text[scan.at - 1])) return false;
  BARE_URL.lastIndex = scan.at;
  const found = withoutEnd(BARE_URL.exec(scan.text)?.[0] ?? "");
  const url = found && webUrl(found);
  return url ? push(scan, { type: "link", url, children: [{ type: "text", text: found }] }, found.length) : false;
}

/** Return a URL without the punctuation of the sentence around it. A bracket stays if it was opened within. */
function withoutEnd(url) {
  let end = url.length;
  while (end > 0 && /[.,;:!?*_~\])}]/.test(url[end - 1])) {
    if (url[end - 1] === ")" && url.slice(0, end).split("(").length === url.slice(0, end).split(")").length) break;
    end -= 1;
  }
  return url.slice(0, end);
}

function readMark(scan) {
  const [mark, type] = MARKS.find(([marks]) => scan.text.startsWith(marks, scan.at)) ?? [];
  if (!mark) return false;
  const end = scan.depth < MAX_DEPTH && opens(scan, mark) ? closing(scan, mark) : -1;
  if (end < 0) return addText(scan, mark, mark.length);
  const inner = scan.text.slice(scan.at + mark.length, end);
  return push(scan, { type, children: parseInline(inner, scan.depth + 1) }, end + mark.length - scan.at);
}

function opens(scan, mark) {
  const after = scan.text[scan.at + mark.length] ?? " ";
  const isInWord = mark[0] === "_" && scan.at > 0 && WORD.test(scan.text[scan.at - 1]);
  return /\S/.test(after) && !isInWord;
}

function closing(scan, mark) {
  let place = find(scan, mark, scan.at + mark.length);
  while (place >= 0 && !closesAt(scan.text, mark, place)) {
    const isDoubled = mark.length === 1 && scan.text[place + 1] === mark;
    place = find(scan, mark, place + (isDoubled ? 2 : 1));
  }
  return place;
}

function closesAt(text, mark, place) {
  const before = text[place - 1];
  const after = text[place + mark.length] ?? " ";
  if (/\s/.test(before) || before === "\\") return false;
  if (mark.length === 1 && (after === mark || before === mark)) return false;
  return mark[0] !== "_" || !WORD.test(after);
}
