// ComfyUI's own words, made fit to be shown: short, and without the paths of its machine.

const longestText = 2000;
/** So much is read of a text, since paths shrink. Patterns run out of stack on some of many megabytes. */
const longestRead = 10 * longestText;

/** Trims, shortens, and keeps only the last part of absolute paths. */
export function presentable(text: string): string {
  const short = text
    .trim()
    .slice(0, longestRead)
    .replaceAll(hostPath, (path) => `…/${path.split(/[/\\]/).at(-1) ?? ''}`);
  return short.length > longestText ? `${short.slice(0, longestText)}…` : short;
}

/** At least two parts after a leading slash or drive; the path of a URL does not match. */
const hostPath = /(?<![\w.:/\\…-])(?:[A-Za-z]:\\|\/)(?:[^\s/\\'"<>|:;,()[\]]+[/\\])+[^\s/\\'"<>|:;,()[\]]*/g;
