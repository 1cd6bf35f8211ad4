// Binary frames. ComfyUI: every integer is big-endian and 32 bits wide.
import { dumpPythonJson } from './support/python.ts';

const PREVIEW_IMAGE = 1;
const TEXT = 3;
const PREVIEW_IMAGE_WITH_METADATA = 4;
const FORMAT_CODES = { jpeg: 1, png: 2 } as const;

export interface Preview {
  readonly format: keyof typeof FORMAT_CODES;
  readonly bytes: Buffer;
}

/** For clients that did not announce `supports_preview_metadata`: no node, no prompt. */
export const previewFrame = ({ format, bytes }: Preview): Buffer =>
  Buffer.concat([uint32(PREVIEW_IMAGE), uint32(FORMAT_CODES[format]), bytes]);

export function previewWithMetadataFrame(
  { format, bytes }: Preview,
  node: { nodeId: string; promptId: string },
): Buffer {
  const metadata = Buffer.from(
    dumpPythonJson({
      node_id: node.nodeId,
      prompt_id: node.promptId,
      display_node_id: node.nodeId,
      parent_node_id: null,
      real_node_id: node.nodeId,
      image_type: `image/${format}`,
    }),
  );
  return Buffer.concat([uint32(PREVIEW_IMAGE_WITH_METADATA), uint32(metadata.length), metadata, bytes]);
}

/** Goes to every socket, whoever submitted the prompt. */
export function textFrame(nodeId: string, text: string): Buffer {
  const id = Buffer.from(nodeId);
  return Buffer.concat([uint32(TEXT), uint32(id.length), id, Buffer.from(text)]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
