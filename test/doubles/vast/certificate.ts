// The certificate that a rented machine makes for itself.
import { generate } from 'selfsigned';

export interface Certificate {
  key: string;
  cert: string;
}

/**
 * As the image's boot makes it when vast.ai does not sign: for the name jupyter.vast.ai and the address 0.0.0.0, so that no
 * client can verify the address that it really called. The key is elliptic, because a new one is made for every machine.
 */
export async function makeCertificate(): Promise<Certificate> {
  const made = await generate([{ name: 'commonName', value: 'jupyter.vast.ai' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    notAfterDate: new Date(Date.now() + 365 * 86_400_000),
    extensions: [{ name: 'subjectAltName', altNames: [{ type: 7, ip: '0.0.0.0' }] }],
  });
  return { key: made.private, cert: made.cert };
}
