// Python's JSON and text forms, because the server that is played here is a Python program.

const FLOAT = Symbol('python float');

/** A number that Python holds as a float, so that a whole one is written with its fraction (`5.0`). */
export interface PyFloat {
  readonly [FLOAT]: number;
}

export const pyFloat = (value: number): PyFloat => ({ [FLOAT]: value });

/** Reads JSON as `json.loads` does: bare NaN and Infinity are numbers. Throws SyntaxError where Python would raise. */
export function parsePythonJson(text: string): unknown {
  const marker = '\u0000float';
  let marked = false;
  const safe = text.replaceAll(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/gsu, (token) => {
    if (token.startsWith('"')) return token;
    marked = true;
    return `{"${String.raw`\u0000float`}":"${token}"}`;
  });
  if (!marked) return JSON.parse(text);
  return JSON.parse(safe, (_key, value: unknown) => {
    if (isObject(value) && typeof value[marker] === 'string') return Number(value[marker]);
    return value;
  });
}

/** Writes JSON as `json.dumps` does: a space after commas and colons, ASCII only, NaN and Infinity bare. */
export function dumpPythonJson(value: unknown): string {
  if (value === null || value === undefined) return 'null';
  if (typeof value === 'string') return quote(value);
  if (typeof value === 'number') return writeNumber(value);
  if (typeof value === 'boolean') return String(value);
  if (isPyFloat(value)) return writeFloat(value[FLOAT]);
  if (Array.isArray(value)) return `[${value.map(dumpPythonJson).join(', ')}]`;
  const entries = value instanceof Map ? [...value.entries()] : Object.entries(value);
  return `{${entries
    .filter(([, entry]) => entry !== undefined)
    .map(([key, entry]) => `${quote(String(key))}: ${dumpPythonJson(entry)}`)
    .join(', ')}}`;
}

/** Python's `repr()` of JSON-like data, as it stands in error texts. */
export function pyRepr(value: unknown): string {
  if (value === null || value === undefined) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value === 'string') return reprString(value);
  if (typeof value === 'number') return writeNumber(value).replace('NaN', 'nan').replace('Infinity', 'inf');
  if (isPyFloat(value)) return writeFloat(value[FLOAT]);
  if (Array.isArray(value)) return `[${value.map(pyRepr).join(', ')}]`;
  const pairs = Object.entries(value).map(([key, entry]) => `${reprString(key)}: ${pyRepr(entry)}`);
  return `{${pairs.join(', ')}}`;
}

/** Python's `str()`: a string stays as it is, everything else reads as its repr. */
export const pyStr = (value: unknown): string => (typeof value === 'string' ? value : pyRepr(value));

/** What Python calls the type of a JSON value. */
export function pyTypeName(value: unknown): string {
  if (value === null || value === undefined) return 'NoneType';
  if (typeof value === 'string') return 'str';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'number') return Number.isInteger(value) ? 'int' : 'float';
  return Array.isArray(value) ? 'list' : 'dict';
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Python's truth: empty containers, zero, empty text and None are false. */
export function isTruthy(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (isObject(value)) return Object.keys(value).length > 0;
  return Boolean(value) || Number.isNaN(value);
}

const isPyFloat = (value: object): value is PyFloat => FLOAT in value;

const writeNumber = (value: number): string => (Number.isInteger(value) ? String(value) : writeFloat(value));

const writeFloat = (value: number): string => (Number.isInteger(value) ? value.toFixed(1) : String(value));

function quote(text: string): string {
  return JSON.stringify(text).replaceAll(
    /[\u007f-\uffff]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function reprString(text: string): string {
  const escaped = text
    .replaceAll('\\', '\\\\')
    .replaceAll('\n', String.raw`\n`)
    .replaceAll('\t', String.raw`\t`);
  if (escaped.includes("'") && !escaped.includes('"')) return `"${escaped}"`;
  return `'${escaped.replaceAll("'", String.raw`\'`)}'`;
}
