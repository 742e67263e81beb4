// Shows JSON in lines without changing a character of its values, and finds where a pointer leads.

import { h } from "./kit.js";

const TOKEN = /\s*(?:([{}[\],:])|("[^"\\]*(?:\\.[^"\\]*)*")|([^\s{}[\],:"]+))/y;
/** As much of a line is shown, and so many lines around the place. */
const LONGEST_LINE = 2000;
const LINES = 300;

/** The lines of a JSON text, each with the pointer to what begins there; null if it is no JSON. */
export function linesOf(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const tokens = tokensOf(text);
  const lines = [];
  const open = [];
  let line = { depth: 0, text: "", pointer: "" };
  const end = () => lines.push(line);
  const begin = (pointer) => { line = { depth: open.length, text: "", pointer }; };
  const child = (place, name) => `${place.pointer}/${String(name).replaceAll("~", "~0").replaceAll("/", "~1")}`;
  tokens.forEach((token, at) => {
    const place = open.at(-1);
    if ((token === "{" || token === "[") && "}]".includes(tokens[at + 1])) {
      line.text += token;
    } else if (token === "{" || token === "[") {
      line.text += token;
      end();
      const inside = { pointer: line.pointer ?? "", index: 0, isObject: token === "{", isKey: token === "{" };
      open.push(inside);
      begin(inside.isObject ? null : child(inside, 0));
    } else if ((token === "}" || token === "]") && "{[".includes(tokens[at - 1])) {
      line.text += token;
    } else if (token === "}" || token === "]") {
      end();
      open.pop();
      begin(null);
      line.text = token;
    } else if (token === ",") {
      line.text += ",";
      end();
      place.index += 1;
      place.isKey = place.isObject;
      begin(place.isObject ? null : child(place, place.index));
    } else if (token === ":") {
      line.text += ": ";
      place.isKey = false;
    } else {
      if (place?.isKey) line.pointer = child(place, JSON.parse(token));
      line.text += token;
    }
  });
  end();
  return lines;
}

function tokensOf(text) {
  const tokens = [];
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(text); match; match = TOKEN.exec(text)) tokens.push(match[1] ?? match[2] ?? match[3]);
  return tokens;
}

/** The text of a member, to the letter, by the names that lead to it; null if it is not there. */
export function memberText(text, names) {
  const open = [];
  let start = -1;
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(text); match; match = TOKEN.exec(text)) {
    const [, mark, string] = match;
    if (start >= 0 && open.length === names.length && (mark === "," || mark === "}")) return text.slice(start, match.index);
    if (mark === "{" || mark === "[") open.push(null);
    else if (mark === "}" || mark === "]") open.pop();
    else if (mark === ",") open[open.length - 1] = null;
    else if (mark === ":" && start < 0 && open.length === names.length && open.every((name, at) => name === names[at])) start = TOKEN.lastIndex;
    else if (string && open.at(-1) === null) open[open.length - 1] = JSON.parse(string);
  }
  return null;
}

/** The line that the pointer leads to, or to the nearest thing around it; -1 without a pointer. */
export function lineAt(lines, pointer) {
  if (pointer === null || pointer === undefined) return -1;
  for (let wanted = pointer; ; wanted = wanted.slice(0, wanted.lastIndexOf("/"))) {
    const found = lines.findIndex((line) => line.pointer === wanted);
    if (found >= 0 || wanted === "") return found;
  }
}

/** A text that is or is not JSON, in lines, with the place that the pointer leads to. */
export function jsonView(text, { pointer = null, remark = null } = {}) {
  const lines = linesOf(text) ?? text.split("\n").map((line) => ({ depth: 0, text: line, pointer: null }));
  const here = lineAt(lines, pointer);
  const view = h("pre", { class: "code foreign", tabindex: "0", role: "group", "aria-label": "Text" });
  const first = Math.max(0, Math.min(here - LINES / 2, lines.length - LINES));
  const draw = (from, to) => {
    const more = (count, where) => count > 0 && h("button", { type: "button", class: "quiet", onclick: () => draw(0, lines.length) }, `${count} more lines ${where}: show all`);
    view.replaceChildren(...[
      more(from, "above"),
      ...lines.slice(from, to).map((line, at) => drawLine(line, from + at === here, remark)),
      more(lines.length - to, "below"),
    ].filter(Boolean));
  };
  draw(first, Math.min(first + LINES, lines.length));
  return view;
}

function drawLine({ depth, text, pointer }, isHere, remark) {
  const rest = text.length - LONGEST_LINE;
  const shown = rest > 0 ? `${text.slice(0, LONGEST_LINE)}… (${rest} more characters)` : text;
  return h("span", { class: isHere ? "line here" : "line", "data-pointer": pointer }, "  ".repeat(depth), shown, "\n",
    isHere && remark && h("span", { class: "remark" }, `${remark}\n`));
}
