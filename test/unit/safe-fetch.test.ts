import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { generate } from 'selfsigned';
import { afterEach, describe, expect, it } from 'vitest';
import { ServiceError } from '../../src/errors.ts';
import { fetchPublic, type PublicFetchOptions, type PublicFile } from '../../src/support/safe-fetch.ts';

const servers: Server[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

async function listen(server: Server): Promise<number> {
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The server has no port.');
  return address.port;
}

/** A server on loopback; `hits` counts the requests that reached it. */
async function serve(handler: RequestListener): Promise<{ host: string; url: string; hits: () => number }> {
  let hits = 0;
  const port = await listen(
    createServer((request, response) => {
      hits += 1;
      handler(request, response);
    }),
  );
  return { host: `127.0.0.1:${port}`, url: `http://127.0.0.1:${port}`, hits: () => hits };
}

function open(url: string, options: Partial<PublicFetchOptions> = {}): Promise<PublicFile> {
  return fetchPublic(url, { maxBytes: 1000, timeoutMs: 5000, allowedHosts: [], ...options });
}

/** The error that the fetch, or reading what it opened, ends with. */
async function refusal(url: string, options: Partial<PublicFetchOptions> = {}): Promise<ServiceError> {
  const error = await open(url, options).then(
    ({ stream }) => buffer(stream).catch((reason: unknown) => reason),
    (reason: unknown) => reason,
  );
  if (!(error instanceof ServiceError)) throw new Error('It was not refused.', { cause: error });
  expect(error).toMatchObject({ code: 'invalid_input', field: options.field ?? 'url' });
  return error;
}

const notFound =
  'The host of the URL was not found on the public internet. One that is elsewhere must be named in INPUT_URL_ALLOWED_HOSTS for inputs, in WEBHOOK_ALLOWED_HOSTS for webhooks.';

describe('a fetch of a public file', () => {
  it('brings the bytes with their type, name and size', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(200, {
        'content-type': 'image/png',
        'content-length': 5,
        'content-disposition': `attachment; filename*=UTF-8''Gr%C3%B6%C3%9Fe.png`,
      });
      response.end('bytes');
    });
    const file = await open(`${server.url}/a`, { allowedHosts: [server.host] });
    expect(file).toMatchObject({ contentType: 'image/png', fileName: 'Größe.png', sizeBytes: 5 });
    expect((await buffer(file.stream)).toString()).toBe('bytes');
  });

  it('takes the name from the URL when the sender gives none', async () => {
    const server = await serve((_request, response) => response.end('x'));
    const file = await open(`${server.url}/some/my%20cat.png?size=1`, { allowedHosts: ['127.0.0.1'] });
    expect(file.fileName).toBe('my cat.png');
    await buffer(file.stream);
  });

  it('asks for the plain bytes and sends nothing that identifies a user', async () => {
    const server = await serve((request, response) => response.end(request.rawHeaders.join('\n')));
    const { stream } = await open(server.url, { allowedHosts: [server.host] });
    const lines = (await buffer(stream)).toString().split('\n');
    expect(lines[lines.indexOf('accept-encoding') + 1]).toBe('identity');
    const names = lines.filter((_line, index) => index % 2 === 0).toSorted();
    expect(names).toEqual(['accept', 'accept-encoding', 'connection', 'host', 'user-agent']);
  });

  it.each([
    ['loopback', 'http://127.0.0.1'],
    ['loopback by name', 'http://localhost'],
    ['loopback by name with a dot', 'http://localhost.'],
    ['loopback in IPv6', 'http://[::1]'],
    ['loopback as mapped IPv4', 'http://[::ffff:127.0.0.1]'],
    ['the unspecified address', 'http://0.0.0.0'],
    ['the unspecified address in IPv6', 'http://[::]'],
    ['loopback as one number', 'http://2130706433'],
    ['loopback in octal', 'http://0177.0.0.1'],
    ['loopback in hexadecimal', 'http://0x7f000001'],
    ['loopback in short', 'http://127.1'],
    ['loopback in full-width digits', 'http://１２７.０.０.１'],
  ])('never connects to %s', async (_kind, origin) => {
    const server = await serve((_request, response) => response.end('secret'));
    const error = await refusal(`${origin}:${server.host.split(':')[1]}/`);
    expect(error.message).toBe(notFound);
    expect(server.hits()).toBe(0);
  });

  it.each([
    'http://10.0.0.1/',
    'http://192.168.0.1/',
    'http://169.254.169.254/latest/meta-data/',
    'http://[fd00:ec2::254]/',
    'http://[64:ff9b::a9fe:a9fe]/',
  ])('never connects to %s', async (url) => {
    expect((await refusal(url)).message).toBe(notFound);
  });

  it('never connects to a name that resolves to loopback, and tells the same as of a name that does not exist', async () => {
    const server = await serve((_request, response) => response.end('secret'));
    const url = `http://files.example:${server.host.split(':')[1]}/`;
    const inside = await refusal(url, {
      resolveHost: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const nowhere = await refusal(url, {
      resolveHost: async () => {
        throw Object.assign(new Error('queryA ENOTFOUND files.example'), { code: 'ENOTFOUND' });
      },
    });
    expect(inside.message).toBe(notFound);
    expect(nowhere.message).toBe(inside.message);
    expect(server.hits()).toBe(0);
  });

  it('asks the resolver once, so an answer that changes has no effect', async () => {
    const server = await serve((_request, response) => response.end('secret'));
    const answers = ['192.0.2.1', '127.0.0.1'];
    let lookups = 0;
    await refusal(`http://files.example:${server.host.split(':')[1]}/`, {
      resolveHost: async () => [{ address: answers[lookups++] ?? '127.0.0.1', family: 4 }],
    });
    expect(lookups).toBe(1);
    expect(server.hits()).toBe(0);
  });

  it('connects to an allowed host by its name and port only', async () => {
    const server = await serve((_request, response) => response.end('fine'));
    const port = server.host.split(':')[1];
    const options = { resolveHost: async () => [{ address: '127.0.0.1', family: 4 }] };
    const url = `http://store.internal:${port}/`;
    const { stream } = await open(url, { ...options, allowedHosts: [`Store.internal:${port}`] });
    expect((await buffer(stream)).toString()).toBe('fine');
    await refusal(url, { ...options, allowedHosts: ['store.internal:1', 'internal', '127.0.0.1'] });
    expect(server.hits()).toBe(1);
  });

  it('follows redirects of an allowed host', async () => {
    const server = await serve((request, response) => {
      if (request.url === '/end') response.end('found');
      else response.writeHead(302, { location: request.url === '/' ? '/next' : 'end' }).end('moved');
    });
    const { stream } = await open(server.url, { allowedHosts: [server.host] });
    expect((await buffer(stream)).toString()).toBe('found');
  });

  it('checks where a redirect leads', async () => {
    const inner = await serve((_request, response) => response.end('secret'));
    const outer = await serve((_request, response) => {
      response.writeHead(307, { location: `${inner.url}/latest` }).end();
    });
    const error = await refusal(outer.url, { allowedHosts: [outer.host] });
    expect(error.message).toBe(notFound);
    expect(inner.hits()).toBe(0);
  });

  it.each([
    ['another protocol', 'file:///etc/passwd', 'The URL must begin with http:// or https://.'],
    ['a password', 'http://me:secret@127.0.0.1/', 'The URL must not contain a user name or password.'],
    ['nonsense', 'http://[', 'This is not a URL.'],
  ])('refuses a redirect to %s', async (_kind, location, detail) => {
    const server = await serve((_request, response) => {
      response.writeHead(301, { location }).end();
    });
    expect((await refusal(server.url, { allowedHosts: ['127.0.0.1', server.host] })).message).toBe(detail);
  });

  it('gives up after too many redirects', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(302, { location: '/again' }).end();
    });
    const error = await refusal(server.url, { allowedHosts: [server.host], maxRedirects: 2 });
    expect(error.message).toBe('The URL redirects more than 2 times.');
    expect(server.hits()).toBe(3);
  });

  it('refuses a redirect from https to http', async () => {
    const { cert, private: key } = await generate([{ name: 'commonName', value: 'localhost' }], {
      extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }] }],
    });
    const trusted = getCACertificates('default');
    setDefaultCACertificates([...trusted, cert]);
    try {
      const plain = await serve((_request, response) => response.end('secret'));
      const secure = createSecureServer({ cert, key }, (request, response) => {
        if (request.url === '/file') response.end('safe');
        else response.writeHead(302, { location: plain.url }).end();
      });
      const url = `https://localhost:${await listen(secure)}`;
      const allowedHosts = ['localhost', plain.host];
      const { stream } = await open(`${url}/file`, { allowedHosts });
      expect((await buffer(stream)).toString()).toBe('safe');
      expect((await refusal(url, { allowedHosts })).message).toBe('The URL redirects from https to http.');
      expect(plain.hits()).toBe(0);
    } finally {
      setDefaultCACertificates(trusted);
    }
  });

  it.each(['ftp://example.com/a', 'data:text/plain,a', '/etc/passwd', '', 'http://'])(
    'refuses %j, which is no web address',
    async (url) => {
      expect(await refusal(url, { field: 'inputs[0].url' })).toHaveProperty('field', 'inputs[0].url');
    },
  );

  it('refuses a URL with credentials', async () => {
    const error = await refusal('https://user:hunter2@example.com/');
    expect(error.message).not.toContain('hunter2');
  });

  it('refuses a file that is announced as too large, without reading it', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': 1001 });
      response.flushHeaders();
    });
    const error = await refusal(server.url, { allowedHosts: [server.host] });
    expect(error.message).toBe('The file behind the URL is larger than 1000 bytes.');
  });

  it('breaks off a file that grows too large', async () => {
    let response: ServerResponse | undefined;
    const server = await serve((_request, answer) => {
      response = answer;
      answer.write('x'.repeat(600));
      answer.write('x'.repeat(600));
    });
    const error = await refusal(server.url, { allowedHosts: [server.host], timeoutMs: 60_000 });
    expect(error.message).toBe('The file behind the URL is larger than 1000 bytes.');
    // The connection is gone too.
    if (response?.destroyed === false) await once(response, 'close');
  });

  it.each<[string, RequestListener]>([
    ['headers', () => {}],
    ['body', (_request, response) => void response.write('x')],
  ])('gives up when the %s never come', async (_part, handler) => {
    const server = await serve(handler);
    const { signal } = new AbortController();
    for (const options of [{ timeoutMs: 50 }, { timeoutMs: 50, signal }]) {
      const error = await refusal(server.url, { allowedHosts: [server.host], ...options });
      expect(error.message).toBe('The file did not arrive within 0.05 s.');
    }
  });

  it('takes a limit that is no whole number of milliseconds', async () => {
    const server = await serve((_request, response) => response.end('x'));
    const file = await open(server.url, { allowedHosts: [server.host], timeoutMs: 8.05 * 1000 });
    expect((await buffer(file.stream)).toString()).toBe('x');
  });

  it('gives up when a body stalls, long before the limit of the whole', async () => {
    const server = await serve((_request, response) => void response.write('x'));
    const error = await refusal(server.url, { allowedHosts: [server.host], stallMs: 50 });
    expect(error.message).toBe('The URL sent nothing for 0.05 s.');
  });

  it('notices a body that breaks off', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': 100 });
      response.write('half', () => response.destroy());
    });
    const error = await refusal(server.url, { allowedHosts: [server.host] });
    expect(error.message).toBe('The host of the URL could not be reached or broke off.');
  });

  it('refuses a body that was compressed although plain bytes were asked for', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end('x');
    });
    const error = await refusal(server.url, { allowedHosts: [server.host] });
    expect(error.message).toContain('compressed');
  });

  it.each([204, 206, 304, 401, 404, 500])('refuses an answer of status %i', async (status) => {
    const server = await serve((_request, response) => response.writeHead(status).end());
    const error = await refusal(server.url, { allowedHosts: [server.host] });
    expect(error.message).toBe(`The URL answered with status ${status}.`);
  });

  it('tells nothing of a closed port but that it does not answer', async () => {
    const server = await serve((_request, response) => response.end());
    const [closed] = servers.splice(0);
    await new Promise((resolve) => closed?.close(resolve));
    const error = await refusal(server.url, { allowedHosts: [server.host] });
    expect(error.message).toBe('The host of the URL could not be reached or broke off.');
  });

  it('ends with the reason of the signal, before and while the body comes', async () => {
    const server = await serve((request, response) => {
      if (request.url === '/body') response.write('x');
    });
    for (const path of ['/headers', '/body']) {
      const controller = new AbortController();
      const reason = new Error(`stopped ${path}`);
      setTimeout(() => controller.abort(reason), 30);
      const opened = open(`${server.url}${path}`, {
        allowedHosts: [server.host],
        signal: controller.signal,
      });
      await expect(opened.then(({ stream }) => buffer(stream))).rejects.toBe(reason);
    }
  });
});
