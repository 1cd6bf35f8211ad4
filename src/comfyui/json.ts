// JSON as Python writes it: NaN and Infinity may stand where a number should.

/** Parses JSON; bare `NaN`, `Infinity` and `-Infinity`, which ComfyUI 0.33 sends, become null. Throws a SyntaxError. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const cured = withoutBareConstants(text);
    if (cured === text) throw error;
    return JSON.parse(cured);
  }
}

/** Steps over strings by hand: a pattern that matched them would run out of stack on those of many megabytes. */
function withoutBareConstants(text: string): string {
  let cured = '';
  for (let at = 0; at < text.length;) {
    const quote = text.indexOf('"', at);
    const start = quote === -1 ? text.length : quote;
    const end = endOfString(text, start);
    cured += text.slice(at, start).replaceAll(/-?Infinity|NaN/g, 'null') + text.slice(start, end);
    at = end;
  }
  return cured;
}

/** The position after the closing quote of the string that opens at `start`. */
function endOfString(text: string, start: number): number {
  for (let at = text.indexOf('"', start + 1); at !== -1; at = text.indexOf('"', at + 1)) {
    let backslashes = 0;
    while (text[at - 1 - backslashes] === '\\') backslashes += 1;
    if (backslashes % 2 === 0) return at + 1;
  }
  return text.length;
}
