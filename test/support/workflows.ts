// Workflows that need no model, so that every ComfyUI, and its double, can run them.
import type { Workflow } from '../../src/jobs/job.ts';

/** One image, saved: done in a moment. */
export const emptyImage: Workflow = {
  '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 48, batch_size: 1, color: 3_368_652 } },
  '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'e2e/empty' } },
};

/** Takes the image of node 1 as an input. */
export const scaledImage: Workflow = {
  '1': { class_type: 'LoadImage', inputs: { image: 'e2e_input.png' } },
  '2': {
    class_type: 'ImageScale',
    inputs: { image: ['1', 0], upscale_method: 'lanczos', width: 96, height: 64, crop: 'center' },
  },
  '3': { class_type: 'ImageInvert', inputs: { image: ['2', 0] } },
  '4': { class_type: 'SaveImage', inputs: { images: ['3', 0], filename_prefix: 'e2e/scaled' } },
};

/** Makes a video of the image of node 1. */
export const video: Workflow = {
  '1': { class_type: 'LoadImage', inputs: { image: 'e2e_input.png' } },
  '2': { class_type: 'RepeatImageBatch', inputs: { image: ['1', 0], amount: 16 } },
  '3': { class_type: 'CreateVideo', inputs: { images: ['2', 0], fps: 8 } },
  '4': {
    class_type: 'SaveVideo',
    inputs: { video: ['3', 0], filename_prefix: 'e2e/video', format: 'mp4', codec: 'h264' },
  },
};

/** Passes ComfyUI's checks and fails when it saves. */
export const failingSave: Workflow = {
  '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 64, batch_size: 1, color: 0 } },
  '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: '../outside/e2e' } },
};

/** Passes ComfyUI's checks and fails in a node that saves nothing. */
export const failingRegex: Workflow = {
  '1': { class_type: 'PrimitiveString', inputs: { value: 'abc' } },
  '2': { class_type: 'RegexReplace', inputs: { string: ['1', 0], regex_pattern: '(', replace: 'x' } },
  '3': { class_type: 'PreviewAny', inputs: { source: ['2', 0] } },
};

/** Works on a list for seconds; an interrupt lands between two items. */
export const slowList: Workflow = {
  '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 64, batch_size: 400, color: 1 } },
  '2': { class_type: 'RebatchImages', inputs: { images: ['1', 0], batch_size: 1 } },
  '3': {
    class_type: 'ImageScale',
    inputs: { image: ['2', 0], upscale_method: 'lanczos', width: 512, height: 512, crop: 'disabled' },
  },
  '4': {
    class_type: 'ImageScale',
    inputs: { image: ['3', 0], upscale_method: 'bicubic', width: 64, height: 64, crop: 'disabled' },
  },
  '5': { class_type: 'SaveImage', inputs: { images: ['4', 0], filename_prefix: 'e2e/slow' } },
};

/** Reports its progress for each of many frames. */
export const slowFrames: Workflow = {
  '1': { class_type: 'EmptyImage', inputs: { width: 256, height: 256, batch_size: 150, color: 1 } },
  '2': { class_type: 'EmptyImage', inputs: { width: 256, height: 256, batch_size: 1, color: 11_162_880 } },
  '3': {
    class_type: 'ColorTransfer',
    inputs: {
      image_target: ['1', 0],
      image_ref: ['2', 0],
      method: 'histogram',
      source_stats: 'per_frame',
      strength: 1,
    },
  },
  '4': { class_type: 'ImageFromBatch', inputs: { image: ['3', 0], batch_index: 0, length: 1 } },
  '5': { class_type: 'SaveImage', inputs: { images: ['4', 0], filename_prefix: 'e2e/progress' } },
};
