// Figures as people read them.
import { isMet, type Aim, type Table } from './scenario.ts';

/** A table of aligned columns, indented. */
export function tableText({ title, columns, rows }: Table): string {
  const lines = [columns, ...rows.map((row) => row.map(cellText))];
  const widths = columns.map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)));
  const shown = lines.map((line) =>
    `    ${line.map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0))).join('  ')}`.trimEnd(),
  );
  return [`  ${title}`, ...shown].join('\n');
}

export function aimLine(aim: Aim): string {
  const { name, value, limit } = aim;
  return `${isMet(aim) ? 'met    ' : 'NOT MET'}  ${name}: ${cellText(value)}, aim at most ${limit}`;
}

/** About three digits that mean something. */
function cellText(cell: string | number): string {
  if (typeof cell === 'string') return cell;
  if (Number.isInteger(cell)) return String(cell);
  const size = Math.abs(cell);
  return cell.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}
