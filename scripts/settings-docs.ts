// Checks that .env.example and the README's table say what src/config.ts says; with --write, makes them.
import { readFile, writeFile } from 'node:fs/promises';
import { describeSettings, type SettingDescription } from '../src/config.ts';

const settings = describeSettings();
const documents = [
  { name: '.env.example', update: () => exampleFile() },
  { name: 'README.md', update: (text: string) => withTable(text) },
];

for (const { name, update } of documents) {
  const file = new URL(`../${name}`, import.meta.url);
  const written = await readFile(file, 'utf8').catch(() => '');
  const wanted = update(written);
  if (wanted === written) continue;
  if (process.argv.includes('--write')) {
    await writeFile(file, wanted);
  } else {
    process.stderr.write(
      `${name} is not what src/config.ts says. Run: node scripts/settings-docs.ts --write\n`,
    );
    process.exitCode = 1;
  }
}

function exampleFile(): string {
  const head = [
    '# Every setting, with its default. Copy this file to .env and take the # away from what you change.',
    '# `npm start` reads .env; a variable of the environment counts more.',
  ];
  const entries = settings.map(
    (setting) => `# ${meaningOf(setting)}\n#${setting.name}=${setting.default ?? ''}`,
  );
  return `${[head.join('\n'), ...entries].join('\n\n')}\n`;
}

function withTable(text: string): string {
  const [start, end] = ['<!-- settings:start -->', '<!-- settings:end -->'];
  const [before, rest] = text.split(start, 2);
  const after = rest?.split(end, 2)[1];
  if (before === undefined || after === undefined) {
    throw new Error(
      `README.md lacks the marks ${start} and ${end}, between which the table of settings belongs.`,
    );
  }
  // Prettier's own layout, so that the two do not undo each other.
  const rows = settings.map((setting) => [
    `\`${setting.name}\``,
    defaultOf(setting),
    escapePipes(meaningOf(setting)),
  ]);
  return `${before}${start}\n\n${tableOf([['Setting', 'Default', 'Meaning'], ...rows])}\n\n${end}${after}`;
}

function tableOf(rows: string[][]): string {
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: string[], fill: string) =>
    `| ${widths.map((width, column) => (cells[column] ?? '').padEnd(width, fill)).join(' | ')} |`;
  const [head = [], ...body] = rows;
  return [line(head, ' '), line([], '-'), ...body.map((row) => line(row, ' '))].join('\n');
}

function defaultOf(setting: SettingDescription): string {
  return setting.default === null || setting.default === '' ? '' : `\`${escapePipes(setting.default)}\``;
}

function meaningOf({ description, unit, choices }: SettingDescription): string {
  return [
    description,
    ...(unit === undefined ? [] : [`In ${unit === 's' ? 'seconds' : unit}.`]),
    ...(choices === null ? [] : [`One of ${choices.join(', ')}.`]),
  ].join(' ');
}

function escapePipes(text: string): string {
  return text.replaceAll('|', String.raw`\|`);
}
