import { existsSync } from 'node:fs';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { problems } from '../../src/http/problems.ts';
import type { App } from '../../src/http/server.ts';
import { createTestApp } from '../support/http.ts';

const browserPath = process.env['CHROMIUM'] ?? '/usr/bin/chromium';
const hasBrowser = existsSync(browserPath);
const isRequired = process.env['CI'] === 'true';
const key = 'a-key-for-the-swagger-ui-of-this-test';

const routes: FastifyPluginAsyncZod = async (app) => {
  app.post(
    '/things',
    {
      schema: {
        operationId: 'makeThing',
        summary: 'Make a thing',
        tags: ['jobs'],
        body: z.strictObject({ name: z.string().meta({ examples: ['a name'] }) }),
        response: { 201: z.object({ madeFor: z.string() }), ...problems('conflict') },
      },
    },
    async (request, reply) => reply.code(201).send({ madeFor: String(request.apiKey) }),
  );
};

if (!hasBrowser && !isRequired) {
  process.stderr.write(
    `SKIPPED: the Swagger UI was not tried in a browser, because there is none at ${browserPath}. Install chromium, or set CHROMIUM.\n`,
  );
}

describe.skipIf(!hasBrowser && !isRequired)('the Swagger UI in a browser', () => {
  let app: App;
  let browser: Browser;
  let page: Page;
  let url: string;
  const complaints: string[] = [];
  const requested: string[] = [];

  beforeAll(async () => {
    ({ app } = await createTestApp({ routes: [routes], keys: { alice: key } }));
    url = await app.listen({ host: '127.0.0.1', port: 0 });
    browser = await chromium.launch({
      executablePath: browserPath,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
    page = await browser.newPage({ viewport: { width: 1200, height: 1600 } });
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('request', (request) => requested.push(request.url()));
  });
  afterAll(async () => {
    await browser?.close();
    await app?.close();
  });

  it('shows the routes, takes a key, and calls with it', async () => {
    await page.goto(`${url}/`);
    await page.getByText('Make a thing').waitFor();
    expect(page.url()).toBe(`${url}/docs`);
    await page.getByText('How the service is').waitFor();

    await page.getByRole('button', { name: 'Authorize' }).first().click();
    await page.getByLabel('auth-bearer-value').fill(key);
    await page.getByRole('button', { name: 'Apply credentials' }).click();
    await page.getByRole('button', { name: 'Close' }).click();

    await page.getByText('Make a thing').click();
    await page.getByRole('button', { name: 'Execute' }).click();
    const answer = page.locator('.live-responses-table');
    await answer.getByText('201').first().waitFor();
    await answer.getByText('"alice"').waitFor();

    const screenshot = process.env['SCREENSHOT'];
    if (screenshot !== undefined) await page.screenshot({ path: screenshot });
  });

  it('breaks no rule of its policy, and asks nobody else for anything', () => {
    expect(complaints).toEqual([]);
    expect(requested.length).toBeGreaterThan(5);
    expect(requested.filter((each) => !each.startsWith(url) && !each.startsWith('data:'))).toEqual([]);
  });
});
