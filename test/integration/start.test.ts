// A start that fails takes nothing from a service that runs on the same database.
import { expect, it, onTestFinished } from 'vitest';
import { startService } from '../../src/app.ts';
import { createLogger } from '../../src/support/log.ts';
import { startComfyDouble } from '../doubles/comfyui/index.ts';
import { startTestService } from '../support/service.ts';

it('ends no ComfyUI server of others where its port is taken', async () => {
  const comfy = await startComfyDouble();
  onTestFinished(() => comfy.stop());
  const running = await startTestService({ comfyUrls: [comfy.url] });
  onTestFinished(() => running.stop());
  const config = { ...running.config, PORT: Number(new URL(running.url).port), COMFYUI_URLS: [] };
  await expect(startService(config, createLogger(config))).rejects.toThrow(/EADDRINUSE.*set another PORT/);
  const { db } = running.service.database;
  const rows = await db.selectFrom('instances').select('pending_reason').execute();
  expect(rows).toEqual([{ pending_reason: null }]);
});
