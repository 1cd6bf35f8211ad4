// Which node classes a server has, and how `/object_info` describes them.
import { readdir } from 'node:fs/promises';
import type { Storage } from '../files/storage.ts';
import type { ComfyKnobs } from '../knobs.ts';
import type { Dict } from '../support/model.ts';
import type { ComfyVersion, VersionTraits } from '../versions.ts';
import type { NodeDefinition } from './definition.ts';
import { imageNodes } from './images.ts';
import { saveNodes } from './save.ts';
import { simulatedNode } from './simulated.ts';
import { valueNodes } from './values.ts';

export interface NodeRegistry {
  find(className: unknown): NodeDefinition | undefined;
  names(): string[];
}

/** The nodes of that version, and the simulated ones of the knob, which win. */
export function nodeRegistry(version: ComfyVersion, knobs: ComfyKnobs): NodeRegistry {
  const builtin = new Map(
    [...imageNodes, ...saveNodes, ...valueNodes]
      .filter(({ onlyIn }) => onlyIn === undefined || onlyIn === version)
      .map((node) => [node.name, node]),
  );
  return {
    find(className) {
      if (typeof className !== 'string') return undefined;
      const declared = Object.hasOwn(knobs.nodes, className) ? knobs.nodes[className] : undefined;
      return declared === undefined ? builtin.get(className) : simulatedNode(className, declared);
    },
    names: () => [...new Set([...builtin.keys(), ...Object.keys(knobs.nodes)])],
  };
}

/** One entry of `/object_info`. LoadImage lists the files that were uploaded, as the real one does. */
export async function describeNode(
  node: NodeDefinition,
  storage: Storage,
  { describesNodesFully }: VersionTraits,
): Promise<Dict> {
  const required =
    node.name === 'LoadImage'
      ? { image: [(await readdir(storage.directory('input'))).sort(), { image_upload: true }] }
      : node.required;
  const input = {
    required,
    ...(node.optional === undefined ? {} : { optional: node.optional }),
    ...(node.hidden === undefined ? {} : { hidden: node.hidden }),
  };
  return {
    input,
    input_order: Object.fromEntries(
      Object.entries(input).map(([kind, inputs]) => [kind, Object.keys(inputs)]),
    ),
    ...(describesNodesFully ? { is_input_list: node.inputIsList === true } : {}),
    output: node.outputs.map(({ type }) => type),
    output_is_list: node.outputs.map(({ isList }) => isList === true),
    output_name: node.outputs.map(({ type, name }) => name ?? type),
    name: node.name,
    display_name: node.displayName,
    description: '',
    python_module: node.pythonModule ?? 'nodes',
    category: node.category,
    output_node: node.isOutput === true,
    ...(describesNodesFully ? { has_intermediate_output: false, search_aliases: [] } : {}),
  };
}
