// Python tracebacks and tensor texts, as they stand in error frames.
import { PRETENDED_ROOT } from '../files/storage.ts';
import { isKind, type ImageBatch, type TraceLine } from '../nodes/definition.ts';
import { pyStr } from '../support/python.ts';

/** Lines of `traceback.format_tb`. */
export function traceback(trace: readonly TraceLine[]): string[] {
  return trace.map(
    ([file, name, source, line = 1]) =>
      `  File "${PRETENDED_ROOT}/${file}", line ${line}, in ${name}\n    ${source}\n`,
  );
}

/** How Python shows an input: pictures read as tensors, everything else as its text. */
export function showInput(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  if (isKind<ImageBatch>(value, 'IMAGE')) return showTensor(value);
  if (typeof value === 'object' && 'kind' in value) return `<${String(value.kind)} object>`;
  return pyStr(value);
}

const EDGE_ITEMS = 3;
const FULL_LIMIT = 1000;

/** torch: above a thousand numbers, only three of each end of a dimension are shown. */
function showTensor({ width, height, channels, frames }: ImageBatch): string {
  const isLong = frames.length * width * height * channels > FULL_LIMIT;
  const shown = (count: number): (number | '...')[] =>
    isLong && count > 2 * EDGE_ITEMS
      ? [0, 1, 2, '...', count - 3, count - 2, count - 1]
      : Array.from({ length: count }, (_, index) => index);
  const level = (count: number, separator: string, show: (index: number) => string): string =>
    `[${shown(count)
      .map((index) => (index === '...' ? index : show(index)))
      .join(separator)}]`;

  const used = shown(frames.length).flatMap((index) => (index === '...' ? [] : [frames[index]]));
  const isWhole = used.every((frame) => frame?.every((value) => value === 0 || value === 255) ?? true);
  const number = (value: number): string => (isWhole ? `${value / 255}.` : (value / 255).toFixed(4));
  const body = level(frames.length, ',\n\n\n        ', (frame) =>
    level(height, ',\n\n         ', (row) =>
      level(width, ',\n          ', (column) =>
        level(channels, ', ', (channel) =>
          number(frames[frame]?.[(row * width + column) * channels + channel] ?? 0),
        ),
      ),
    ),
  );
  return `tensor(${body})`;
}
