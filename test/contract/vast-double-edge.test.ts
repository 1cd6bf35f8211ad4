// A rented machine of the vast.ai double lets in whom the real image lets in, and fails as the real image fails.
import { once } from 'node:events';
import { connect } from 'node:net';
import type { PeerCertificate } from 'node:tls';
import { connect as connectTls } from 'node:tls';
import { createHash } from 'node:crypto';
import { FormData, request } from 'undici';
import { expect, onTestFinished, test } from 'vitest';
import { WebSocket } from 'ws';
import { z } from 'zod';
import type { VastDouble } from '../doubles/vast/index.ts';
import { instantPhases, manualClock } from '../doubles/vast/index.ts';
import {
  call,
  get,
  openDouble,
  originalRecipe,
  outcome,
  password,
  publishedAddress,
  rent,
  secureRecipe,
  show,
  trusting,
  untilReady,
} from './vast-double-client.ts';

const bearer = { authorization: `Bearer ${password}` };
const basic = (user: string, secret: string) => ({
  authorization: `Basic ${Buffer.from(`${user}:${secret}`).toString('base64')}`,
});

test('a machine refuses connections, then asks for credentials, then is not ready, then answers', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    knobs: { phases: { ...instantPhases, bootMs: 1000, provisioningMs: 1000 } },
  });
  const id = await rent(vast);
  clock.advance(500);
  const url = `https://${await publishedAddress(vast, id)}/system_stats`;
  expect(await outcome(url, bearer)).toBe('ECONNREFUSED');

  clock.advance(500);
  await settled(vast, id);
  expect(await get(url)).toMatchObject({
    status: 401,
    headers: { 'www-authenticate': expect.stringMatching(/^Basic realm=/) },
  });
  const placeholder = { 'x-portal-placeholder': 'true' };
  expect(await get(url, bearer)).toMatchObject({ status: 502, headers: placeholder });
  expect(await get(url, { ...bearer, 'cf-ray': '1' })).toMatchObject({ status: 200, headers: placeholder });
  vast.knobs.edge.placeholderAs200 = true;
  expect(await get(url, bearer)).toMatchObject({ status: 200, headers: placeholder });
  vast.knobs.edge.placeholderAs200 = false;

  clock.advance(1000);
  await untilReady(vast, id);
  const ready = await get(url, bearer);
  expect(ready.headers['x-portal-placeholder']).toBeUndefined();
  expect(JSON.parse(ready.text)).toMatchObject({ system: {}, devices: [] });
});

test('both secrets pass, by every way that the image has, and nothing else does', async () => {
  const { vast, id, url } = await openMachine();
  const token = vast.state.rentals.get(id)?.jupyterToken ?? '';
  const cookie = (secret: string) => ({ cookie: `theme=dark; C.${id}_auth_token=${secret}` });
  const admitted = [
    bearer,
    { authorization: `Bearer ${token}` },
    basic('svc', password),
    cookie(password),
    cookie(token),
  ];
  const refused = [
    {},
    { authorization: 'Bearer wrong' },
    { authorization: `bearer ${password}` },
    basic('svc', token),
    basic('vastai', password),
    basic('svc', 'wrong'),
    cookie('wrong'),
    { cookie: `auth_token=${password}` },
  ];
  for (const headers of admitted) expect(await outcome(`${url}/system_stats`, headers)).toBe(200);
  for (const headers of refused) expect(await outcome(`${url}/system_stats`, headers)).toBe(401);
  expect(vast.counters.edgeRefusals).toBe(refused.length);
});

test('a token in the URL becomes a cookie: a program is let in at once, a browser is sent on', async () => {
  const { vast, id, url } = await openMachine();
  const token = vast.state.rentals.get(id)?.jupyterToken ?? '';
  const program = await get(`${url}/view?filename=a%20b.png&token=${password}&type=output`);
  expect(JSON.parse(program.text)).toMatchObject({ url: '/view?filename=a%20b.png&type=output' });
  expect(program.headers['set-cookie']).toBe(
    `C.${id}_auth_token=${token}; Path=/; Max-Age=604800; HttpOnly; SameSite=lax`,
  );
  const browser = await get(`${url}/?token=${token}`, { accept: 'text/html' });
  expect(browser).toMatchObject({ status: 302, headers: { location: '/' } });
  expect(await outcome(`${url}/?token=wrong`)).toBe(401);
});

test.each([
  '/manifest.json',
  '/.well-known/security.txt',
  '/.well-known/acme-challenge/x',
  '/portal-resolver',
])('the path %s is open', async (path) => {
  const { url } = await openMachine();
  expect(await outcome(`${url}${path}`)).toBe(200);
});

test('ComfyUI is asked under the name of its own machine, and the mark of the placeholder cannot be forged', async () => {
  const { url } = await openMachine();
  const answer = await get(`${url}/prompt`, { ...bearer, origin: 'https://example.com' });
  expect(JSON.parse(answer.text)).toMatchObject({
    headers: { host: 'localhost:18188', origin: 'https://example.com' },
  });
  expect(answer.headers['x-portal-placeholder']).toBeUndefined();
});

test('the secret of the machine is compared as the image cleans it', async () => {
  const dirty = { ...secureRecipe.env, WEB_PASSWORD: `${password.slice(0, 20)};\r\n${password.slice(20)}` };
  const { url } = await openMachine({ ...secureRecipe, env: dirty });
  expect(await outcome(`${url}/system_stats`, bearer)).toBe(200);
});

test('without a password of ours the token of the platform is the only one', async () => {
  const { WEB_PASSWORD: _none, ...env } = secureRecipe.env;
  const vast = await openDouble();
  const id = await rent(vast, { ...secureRecipe, env: { ...env, OPEN_BUTTON_TOKEN: 'ours' } });
  const url = `https://${await publishedAddress(vast, id)}/`;
  const token = (await show(vast, id))?.jupyter_token ?? '';
  await expect.poll(() => outcome(url, { authorization: `Bearer ${token}` })).toBe(200);
  expect(await outcome(url, basic('svc', token))).toBe(200);
  expect(await outcome(url, { authorization: 'Bearer ours' })).toBe(401);
});

test('the recipe of the original design maps a port on which nothing ever listens', async () => {
  const vast = await openDouble();
  const id = await rent(vast, originalRecipe);
  const address = await publishedAddress(vast, id);
  await vast.until(() => (vast.state.rentals.get(id)?.actualStatus ?? '') === 'running');
  for (const scheme of ['http', 'https']) {
    expect(await outcome(`${scheme}://${address}/system_stats`)).toBe('ECONNREFUSED');
  }
  expect(vast.comfyOf(id)).toBeUndefined();
});

const { env } = secureRecipe;
const withoutName = (name: keyof typeof env) =>
  Object.fromEntries(Object.entries(env).filter(([key]) => key !== name));

/** As long as the shell waits for what stands before the entrypoint, nothing of the image runs. */
const switchBefore = (ending: string) => `# a comment
(
  while sleep 20; do true; done
) </dev/null >>/tmp/log 2>&1${ending}
entrypoint.sh`;

test.each([
  ['no onstart', { onstart: '' }, 'ECONNREFUSED'],
  ['a loop in the background before the entrypoint', { onstart: switchBefore(' &') }, 200],
  ['a loop that the entrypoint waits for', { onstart: switchBefore('') }, 'ECONNREFUSED'],
  ['an assignment before the entrypoint', { onstart: 'export A=1\nexec /opt/entrypoint.sh' }, 200],
  ['an end before the entrypoint', { onstart: 'exit 0\nentrypoint.sh' }, 'ECONNREFUSED'],
  ['the entrypoint in a comment', { onstart: '# entrypoint.sh\nsleep infinity' }, 'ECONNREFUSED'],
  ['the entrypoint only printed', { onstart: 'cat /opt/entrypoint.sh' }, 'ECONNREFUSED'],
  ['an onstart that does not call the entrypoint', { onstart: 'sleep infinity' }, 'ECONNREFUSED'],
  ['the jupyter runtype without onstart', { runtype: 'jupyter_direct', onstart: '' }, 'ECONNREFUSED'],
  ['no PORTAL_CONFIG', { env: withoutName('PORTAL_CONFIG') }, 'ECONNREFUSED'],
  [
    'a portal without ComfyUI',
    { env: { ...env, PORTAL_CONFIG: 'localhost:1111:11111:/:Instance Portal' } },
    'ECONNREFUSED',
  ],
  [
    'the same port inside and outside',
    { env: { ...env, PORTAL_CONFIG: 'localhost:8188:8188:/:ComfyUI' } },
    'ECONNREFUSED',
  ],
  ['ComfyUI under another name', { env: { ...env, PORTAL_CONFIG: 'localhost:8188:18188:/:Comfy' } }, 502],
  ['arguments that lost the port', { env: { ...env, COMFYUI_ARGS: '--enable-cors-header' } }, 502],
  ['arguments with another port', { env: { ...env, COMFYUI_ARGS: '--port=8188' } }, 502],
  ['the default arguments', { env: withoutName('COMFYUI_ARGS') }, 200],
  ['the older spelling of the runtype', { runtype: 'ssh_direc ssh_proxy' }, 200],
  ['the entrypoint of the image', { runtype: 'args', onstart: '' }, 200],
  [
    'an entrypoint that calls it',
    { runtype: 'args', onstart: '/bin/sh', args: ['-c', 'entrypoint.sh'] },
    200,
  ],
  [
    'an entrypoint that does not',
    { runtype: 'args', onstart: '/bin/sh', args: ['-c', 'env'] },
    'ECONNREFUSED',
  ],
])('a request with %s ends in %s', async (_what, change, expected) => {
  const vast = await openDouble();
  const id = await rent(vast, { ...secureRecipe, ...change });
  const url = `https://${await publishedAddress(vast, id)}/system_stats`;
  await settled(vast, id);
  await expect.poll(() => outcome(url, bearer)).toBe(expected);
});

test.each([
  ['was not asked for', withoutName('-p 8188:8188')],
  ['has another value than "1"', { ...env, '-p 8188:8188': '' }],
])('a port that %s is not mapped', async (_what, asked) => {
  const vast = await openDouble();
  const id = await rent(vast, { ...secureRecipe, env: asked });
  await expect(publishedAddress(vast, id)).rejects.toThrow('not mapped');
  expect(Object.keys((await show(vast, id))?.ports ?? {})).toEqual(['22/tcp']);
});

test.each([
  ['by its own environment', { ...env, ENABLE_AUTH: 'false' }, {}],
  ['by its list of open ports', { ...env, AUTH_EXCLUDE: '1111, 8188' }, {}],
  ['by the environment of the account', env, { ENABLE_AUTH: 'false' }],
])('a machine opened %s answers without credentials', async (_how, environment, accountEnv) => {
  const vast = await openDouble({ knobs: { accountEnv } });
  const id = await rent(vast, { ...secureRecipe, env: environment });
  const url = await untilReady(vast, id);
  expect(await outcome(`${url}/system_stats`)).toBe(200);
});

test('the certificate is for 0.0.0.0, stays when the machine reboots, and is new when it is recycled', async () => {
  const { vast, id, url } = await openMachine();
  const first = await certificateOf(url);
  expect(first.subject.CN).toBe('jupyter.vast.ai');
  expect(first.subjectaltname).toBe('IP Address:0.0.0.0');
  await call(vast, 'PUT', `/api/v0/instances/reboot/${id}/`, {});
  expect((await certificateOf(await untilReady(vast, id))).fingerprint256).toBe(first.fingerprint256);
  await call(vast, 'PUT', `/api/v0/instances/recycle/${id}/`, {});
  expect((await certificateOf(await untilReady(vast, id))).fingerprint256).not.toBe(first.fingerprint256);
});

test('plain HTTP on a port with TLS is sent to HTTPS', async () => {
  const { url } = await openMachine();
  const address = url.replace('https://', '');
  expect(await get(`http://${address}/queue?a=b`, bearer)).toMatchObject({
    status: 308,
    headers: { location: `https://${address}/queue?a=b` },
  });
  expect(await greeting(`ws://${address}/ws`, bearer)).toBe('Unexpected server response: 308');
});

test('HTTPS fails open: without a certificate the same port speaks plain HTTP', async () => {
  const vast = await openDouble({ knobs: { edge: { httpsFailsOpen: true } } });
  const id = await rent(vast);
  const url = await untilReady(vast, id, 'http');
  expect(await outcome(`${url}/system_stats`, bearer)).toBe(200);
  const socket = connectTls({
    host: '127.0.0.1',
    port: Number(new URL(url).port),
    rejectUnauthorized: false,
  });
  const [error] = await once(socket, 'error');
  // As a real server of Go has it: it answers the hello in plain text, which OpenSSL takes for a record of an unknown version.
  expect(error).toMatchObject({ code: 'ERR_SSL_WRONG_VERSION_NUMBER' });
});

test('a WebSocket is let in by the same rules as a request', async () => {
  const { vast, id, url } = await openMachine();
  const socketUrl = `${url.replace('https', 'wss')}/ws?clientId=one`;
  expect(await greeting(socketUrl, bearer)).toBe('/ws?clientId=one');
  expect(await greeting(`${socketUrl}&token=${password}`, {})).toBe('/ws?clientId=one');
  expect(await greeting(socketUrl, { cookie: `C.${id}_auth_token=${password}` })).toBe('/ws?clientId=one');
  expect(await greeting(socketUrl, {})).toBe('Unexpected server response: 401');
  vast.strike(id, 'comfyui-gone');
  await vast.until(() => vast.state.rentals.get(id)?.installation?.running() === undefined);
  expect(await greeting(socketUrl, bearer)).toBe('Unexpected server response: 502');
});

test('a WebSocket carries text and large binary frames both ways', async () => {
  const { url } = await openMachine();
  const socket = new WebSocket(`${url.replace('https', 'wss')}/ws`, {
    headers: bearer,
    rejectUnauthorized: false,
  });
  onTestFinished(() => socket.terminate());
  await once(socket, 'message');
  const frame = Buffer.alloc(5_000_000, 3);
  socket.send(frame);
  const [echo] = z.tuple([z.instanceof(Buffer), z.literal(true)]).parse(await once(socket, 'message'));
  expect(echo.equals(frame)).toBe(true);
});

test('bodies are streamed: the first half arrives although the second never comes', async () => {
  const { url } = await openMachine();
  const answer = await request(`${url}/half`, { headers: bearer, dispatcher: trusting });
  const [chunk] = z.tuple([z.instanceof(Buffer)]).parse(await once(answer.body, 'data'));
  expect(chunk.toString()).toBe('first half');
  answer.body.on('error', () => {});
  answer.body.destroy();
});

test('bodies arrive whole: 4 MB down and up, and the traffic is billed', async () => {
  const { vast, url } = await openMachine();
  const bytes = 4 * 1024 * 1024;
  const down = await request(`${url}/bytes?count=${bytes}`, { headers: bearer, dispatcher: trusting });
  let received = 0;
  for await (const chunk of down.body as AsyncIterable<Buffer>) received += chunk.length;
  expect(received).toBe(bytes);
  const body = Buffer.alloc(bytes, 5);
  const up = await request(`${url}/upload`, { method: 'POST', headers: bearer, body, dispatcher: trusting });
  expect(await up.body.text()).toBe(createHash('sha256').update(body).digest('hex'));
  const [bill] = vast.bill();
  expect(bill?.trafficUsd).toBeGreaterThan((bytes / 1e9) * 0.002 + (bytes / 1e9) * 0.004);
});

test('an answer that ComfyUI breaks off breaks off for the client too', async () => {
  const { url } = await openMachine();
  await expect(get(`${url}/cut`, bearer)).rejects.toThrow(/terminated|other side closed|hang up/);
});

test('texts are compressed for those who ask for it', async () => {
  const { url } = await openMachine();
  const long = { ...bearer, 'accept-encoding': 'gzip', 'x-long': 'x'.repeat(600) };
  expect((await get(`${url}/system_stats`, long)).headers['content-encoding']).toBe('gzip');
  expect((await get(`${url}/system_stats`, bearer)).headers['content-encoding']).toBeUndefined();
});

test('a black hole accepts and never answers, in the middle of a stream too, until it recovers', async () => {
  const { vast, id, url } = await openMachine();
  const socket = new WebSocket(`${url.replace('https', 'wss')}/ws`, {
    headers: bearer,
    rejectUnauthorized: false,
  });
  onTestFinished(() => socket.terminate());
  await once(socket, 'message');
  vast.strike(id, 'black-holed');
  const port = Number(url.split(':').at(-1));
  const silent = connect({ host: '127.0.0.1', port });
  onTestFinished(() => void silent.destroy());
  await once(silent, 'connect');
  silent.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  socket.send('are you there?');
  const heard = Promise.race([
    once(silent, 'data'),
    once(silent, 'close'),
    once(socket, 'message'),
    once(socket, 'close'),
  ]);
  expect(await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, 150, 'nothing'))])).toBe(
    'nothing',
  );
  vast.strike(id, 'recovered');
  await heard;
  expect(await outcome(`${url}/system_stats`, bearer)).toBe(200);
});

test('after the end of a rental its port is refused', async () => {
  const { vast, id, url } = await openMachine();
  await call(vast, 'DELETE', `/api/v0/instances/${id}/`);
  await expect.poll(() => outcome(url, bearer)).toBe('ECONNREFUSED');
});

test('a start after a stop may come with other ports, and does not on a machine with a fixed address', async () => {
  const vast = await openDouble();
  for (const [machineId, isFixed] of [
    [33_307, true],
    [41_190, false],
  ] as const) {
    const id = await rent(vast, secureRecipe, machineId);
    const before = await untilReady(vast, id);
    await call(vast, 'PUT', `/api/v0/instances/${id}/`, { state: 'stopped' });
    await call(vast, 'PUT', `/api/v0/instances/${id}/`, { state: 'running' });
    const after = await untilReady(vast, id);
    expect(after === before).toBe(isFixed);
  }
});

test.each([
  ['--port 18188', { origin: 403, upload: 104_857_600 }],
  ['--port 18188 --enable-cors-header --max-upload-size 1', { origin: 200, upload: 1_048_576 }],
])('ComfyUI runs as the image and its arguments say: %s', async (args, expected) => {
  const vast = await openDouble({ startComfyUi: undefined });
  const id = await rent(vast, { ...secureRecipe, env: { ...env, COMFYUI_ARGS: args } });
  const url = await untilReady(vast, id);
  expect(await outcome(`${url}/queue`, { ...bearer, origin: 'https://example.com' })).toBe(expected.origin);
  const stats: unknown = JSON.parse((await get(`${url}/system_stats`, bearer)).text);
  expect(stats).toMatchObject({
    system: { comfyui_version: '0.35.0', argv: ['main.py', ...args.split(' ')] },
  });
  const features: unknown = JSON.parse((await get(`${url}/features`, bearer)).text);
  expect(features).toMatchObject({ max_upload_size: expected.upload });
});

test('a machine that moves goes on at other ports, with its certificate, and cuts off who is connected', async () => {
  const { vast, id, url } = await openMachine();
  const { fingerprint256 } = await certificateOf(url);
  const port = Number(url.split(':').at(-1));
  const open = connect({ host: '127.0.0.1', port });
  onTestFinished(() => void open.destroy());
  await once(open, 'connect');
  const cut = once(open, 'error');
  vast.strike(id, 'moved');
  await cut;
  await expect.poll(() => publishedAddress(vast, id)).not.toBe(url.slice('https://'.length));
  const moved = `https://${await publishedAddress(vast, id)}`;
  await expect.poll(() => outcome(`${moved}/system_stats`, bearer)).toBe(200);
  expect((await certificateOf(moved)).fingerprint256).toBe(fingerprint256);
  expect(await outcome(url, bearer)).toBe('ECONNREFUSED');
  expect(vast.state.rentals.get(id)).toMatchObject({ actualStatus: 'running' });
});

test('a WebSocket to a ComfyUI that is gone is a bad gateway too', async () => {
  const vast = await openDouble({ startComfyUi: undefined });
  const id = await rent(vast);
  const url = await untilReady(vast, id);
  await vast.comfyOf(id)?.exit();
  expect(await greeting(`${url.replace('https', 'wss')}/ws`, bearer)).toBe('Unexpected server response: 502');
});

test('a machine without a network does not destroy itself before it is back', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, startComfyUi: undefined });
  const id = await rent(vast, { ...secureRecipe, onstart: withSwitch(10) });
  clock.advance(1000);
  await vast.until(() => vast.comfyOf(id) !== undefined);
  vast.strike(id, 'offline');
  /** Waits for the next second, and whatever the machine does in it. */
  const aSecondLater = <T>(look: () => T) => {
    clock.advance(1000);
    return look();
  };
  const looks = () => vast.comfyOf(id)?.counters.requests['GET /view'] ?? 0;
  await expect.poll(() => aSecondLater(looks)).toBeGreaterThan(20);
  expect(vast.counters.selfDestroyed).toBe(0);
  vast.strike(id, 'recovered');
  await expect.poll(() => aSecondLater(() => vast.counters.selfDestroyed)).toBe(1);
});

test('a look for the heartbeat that hangs ends no machine that is watched', async () => {
  const vast = await openDouble({ startComfyUi: undefined });
  const id = await rent(vast, { ...secureRecipe, onstart: withSwitch(4) });
  await vast.until(() => vast.comfyOf(id) !== undefined);
  const comfy = vast.comfyOf(id);
  if (comfy === undefined) throw new Error('ComfyUI does not run.');
  let beats = 0;
  const beatAndCount = async () => {
    const form = new FormData();
    form.set('image', new File([`beat ${(beats += 1)}`], 'x'));
    form.set('overwrite', 'true');
    await fetch(`${comfy.url}/upload/image`, { method: 'POST', body: form });
    return comfy.counters.requests['GET /view'] ?? 0;
  };
  await expect.poll(beatAndCount).toBeGreaterThan(1);
  comfy.knobs.requestFaults = [{ route: 'GET /view', how: 'hang', times: 1 }];
  await expect.poll(beatAndCount).toBeGreaterThan(6);
  expect(vast.counters.selfDestroyed).toBe(0);
});

test('the image of ai-dock sends strangers to a login page and has credentials of its own', async () => {
  const recipe = {
    ...secureRecipe,
    image: 'ghcr.io/ai-dock/comfyui:latest-cuda',
    onstart: 'init.sh',
    env: { '-p 8188:8188': '1', WEB_TOKEN: password, WEB_USER: 'svc', WEB_PASSWORD: 'other' },
  };
  const vast = await openDouble();
  const id = await rent(vast, recipe);
  const url = await untilReady(vast, id, 'http');
  expect(await get(`${url}/system_stats`)).toMatchObject({
    status: 302,
    headers: { location: '/ai-dock/login' },
  });
  expect(await outcome(`${url}/ai-dock/health-check`)).toBe(200);
  expect(await outcome(`${url}/system_stats?token=${password}`)).toBe(200);
  expect(await outcome(`${url}/system_stats`, basic('svc', 'other'))).toBe(200);

  const closed = await rent(vast, { ...recipe, env: { ...recipe.env, WEB_ENABLE_HTTPS: 'true' } });
  const closedUrl = await untilReady(vast, closed);
  expect(await outcome(`${closedUrl}/system_stats`, bearer)).toBe(200);
  expect(await get(`${closedUrl.replace('https', 'http')}/queue`)).toMatchObject({
    headers: { location: `${closedUrl}/queue` },
  });

  const open = await rent(vast, { ...recipe, env: { '-p 8188:8188': '1', WEB_ENABLE_AUTH: 'false' } });
  const openUrl = `http://${await publishedAddress(vast, open)}/system_stats`;
  await expect.poll(() => outcome(openUrl)).toBe(200);
  const dead = await rent(vast, { ...recipe, onstart: '' });
  const deadUrl = `http://${await publishedAddress(vast, dead)}/system_stats`;
  await settled(vast, dead);
  expect(await outcome(deadUrl, bearer)).toBe('ECONNREFUSED');
});

test('behind a machine runs the ComfyUI double with the GPU of the offer, and its files outlive a reboot', async () => {
  const vast = await openDouble({ startComfyUi: undefined });
  const id = await rent(vast);
  const url = await untilReady(vast, id);
  const stats = z
    .object({ devices: z.array(z.object({ name: z.string(), vram_total: z.number() })) })
    .parse(JSON.parse((await get(`${url}/system_stats`, bearer)).text));
  expect(stats.devices[0]).toMatchObject({
    name: expect.stringContaining('RTX 3090'),
    vram_total: 24_576 * 1024 * 1024,
  });
  const form = new FormData();
  form.set('image', new Blob(['not really an image']), 'kept.png');
  const upload = await request(`${url}/upload/image`, {
    method: 'POST',
    headers: bearer,
    body: form,
    dispatcher: trusting,
  });
  expect(await upload.body.json()).toMatchObject({ name: 'kept.png' });
  const comfyUi = vast.comfyOf(id);
  expect(comfyUi?.counters.uploads).toBe(1);

  await call(vast, 'PUT', `/api/v0/instances/reboot/${id}/`, {});
  await untilReady(vast, id);
  expect(vast.comfyOf(id)).toBe(comfyUi);
  expect(await outcome(`${url}/view?filename=kept.png&type=input`, bearer)).toBe(200);

  await call(vast, 'PUT', `/api/v0/instances/recycle/${id}/`, {});
  await untilReady(vast, id);
  expect(await outcome(`${url}/view?filename=kept.png&type=input`, bearer)).toBe(404);
});

/** The start script of a machine that destroys itself without heartbeats for so many seconds. */
function withSwitch(seconds: number): string {
  return `# dead-man-switch limit=${seconds} first=${seconds} port=18188 heartbeat=type=input&filename=x
(
  while sleep 1; do
    DELETE
  done
) &
entrypoint.sh`;
}

async function openMachine(
  recipe: object = secureRecipe,
): Promise<{ vast: VastDouble; id: number; url: string }> {
  const vast = await openDouble();
  const id = await rent(vast, recipe);
  return { vast, id, url: await untilReady(vast, id) };
}

/** Waits until the machine has opened what it will ever open. */
async function settled(vast: VastDouble, id: number): Promise<void> {
  await vast.until(() => vast.state.rentals.get(id)?.container?.isBooted() === true);
}

/** The first message of a WebSocket, or why it was not opened. */
async function greeting(url: string, headers: Record<string, string>): Promise<string> {
  const socket = new WebSocket(url, { headers, rejectUnauthorized: false });
  try {
    const [data] = z.tuple([z.instanceof(Buffer), z.boolean()]).parse(await once(socket, 'message'));
    return data.toString();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    socket.on('error', () => {});
    socket.terminate();
  }
}

async function certificateOf(url: string): Promise<PeerCertificate> {
  const { hostname, port } = new URL(url);
  const socket = connectTls({ host: hostname, port: Number(port), rejectUnauthorized: false });
  await once(socket, 'secureConnect');
  const certificate = socket.getPeerCertificate();
  socket.destroy();
  return certificate;
}
