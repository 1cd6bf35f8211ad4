import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../src/errors.ts';
import { parsePublicUrl } from '../../src/support/public-url.ts';

function refusalOf(url: string, allowedHosts: string[] = []): ServiceError {
  try {
    parsePublicUrl(url, { allowedHosts, field: 'webhookUrl' });
  } catch (error) {
    if (error instanceof ServiceError) return error;
    throw error;
  }
  throw new Error('It was accepted.');
}

describe('a URL that a caller wrote', () => {
  it.each([
    'https://example.com/hook?token=1',
    'http://example.com:8080/',
    'http://93.184.216.34/',
    'https://[2606:4700::1111]/',
    'http://localhost.example.com/',
  ])('may be %s', (url) => {
    expect(parsePublicUrl(url, { allowedHosts: [], field: 'url' }).href).toBe(url);
  });

  it.each([
    ['loopback', 'http://127.0.0.1/'],
    ['loopback by name', 'http://localhost:8400/'],
    ['loopback by name, written out', 'http://a.LOCALHOST./'],
    ['loopback in IPv6', 'http://[::1]/'],
    ['loopback as a number', 'http://2130706433/'],
    ['loopback in hexadecimal', 'http://0x7f.1/'],
    ['loopback in octal', 'http://0177.0.0.1/'],
    ['IPv4 within IPv6', 'http://[::ffff:10.0.0.1]/'],
    ['a private network', 'https://192.168.1.10/hook'],
    ['the metadata of a cloud', 'http://169.254.169.254/latest/meta-data/'],
    ['a link-local address', 'http://[fe80::1]/'],
    ['nowhere', 'http://0.0.0.0/'],
    ['a full-width spelling', 'http://①②⑦.0.0.1/'],
  ])('may not lead to %s', (_name, url) => {
    expect(refusalOf(url)).toMatchObject({
      code: 'invalid_input',
      field: 'webhookUrl',
      message:
        'The host of the URL was not found on the public internet. One that is elsewhere must be named in INPUT_URL_ALLOWED_HOSTS for inputs, in WEBHOOK_ALLOWED_HOSTS for webhooks.',
    });
  });

  it.each([
    ['another scheme', 'ftp://example.com/', 'must begin with http'],
    ['a file', 'file:///etc/passwd', 'must begin with http'],
    ['a user and a password', 'https://user:password@example.com/', 'must not contain a user name'],
    ['a user', 'https://user@example.com/', 'must not contain a user name'],
    ['no URL', 'example', 'not a URL'],
  ])('may not be %s', (_name, url, message) => {
    expect(refusalOf(url).message).toContain(message);
    expect(refusalOf(url).message).not.toContain('password@');
  });

  it('may lead to a private address that the settings allow, and to no other port of it', () => {
    const allowed = { allowedHosts: ['127.0.0.1:8080'], field: 'url' };
    expect(parsePublicUrl('http://127.0.0.1:8080/x', allowed).port).toBe('8080');
    expect(refusalOf('http://127.0.0.1:8081/x', ['127.0.0.1:8080']).code).toBe('invalid_input');
    expect(parsePublicUrl('http://localhost/x', { allowedHosts: ['LOCALHOST'], field: 'url' }).host).toBe(
      'localhost',
    );
  });
});
