// Self-signed certificates with their fingerprints, as a pin needs them.
import { X509Certificate } from 'node:crypto';
import { makeCertificate, type Certificate } from '../doubles/vast/certificate.ts';

export interface TestCertificate extends Certificate {
  /** SHA-256, as `AA:BB:…`. */
  fingerprint: string;
}

export async function makeTestCertificate(): Promise<TestCertificate> {
  const made = await makeCertificate();
  return { ...made, fingerprint: new X509Certificate(made.cert).fingerprint256 };
}
