// `PUT /instances/request_logs/{id}/` and the file to which it points.
import type { Call } from './call.ts';
import { bodyObject } from './call.ts';
import type { Rental } from './rental.ts';
import type { Reply } from './reply.ts';
import { failure, json, text } from './reply.ts';
import type { World } from './world.ts';

/** The answer names a file that is uploaded a moment later. */
export function requestLogs(call: Call, baseUrl: string): Reply {
  const { world } = call;
  const rental = world.rentals.get(call.id);
  if (rental === undefined || rental.endedAtMs !== null)
    return failure(404, 'invalid_id', 'Invalid instance id.');
  if (rental.isForeign)
    return failure(403, 'not_authorized', 'Not authorized to view logs for this instance');
  const { tail, filter, daemon_logs: daemon } = bodyObject(call) ?? {};
  const lines = daemon === 'true' ? daemonLines(rental) : containerLines(world, rental);
  const wanted = typeof filter === 'string' ? lines.filter((line) => line.includes(filter)) : lines;
  const count = Number(tail ?? 1000);
  const name = `${world.random.hex(40)}.log`;
  world.logFiles.set(name, {
    text: `${wanted.slice(-(count > 0 ? count : 1000)).join('\n')}\n`,
    misses: world.knobs.logMisses,
  });
  return json(200, {
    success: true,
    result_url: `${baseUrl}/instance_logs/${name}`,
    msg: 'Log upload requested.',
  });
}

/** As a file store answers, without any credentials: 404 until the file is there. */
export function logFile(world: World, name: string): Reply {
  const file = world.logFiles.get(name);
  if (file === undefined || file.misses > 0) {
    if (file !== undefined) file.misses -= 1;
    return text(404, '<Error><Code>NoSuchKey</Code></Error>', 'application/xml');
  }
  return text(200, file.text);
}

/** A signed URL is a credential of its own, and such a store refuses a second one. */
export function credentialTwice(): Reply {
  return text(400, '<Error><Code>InvalidArgument</Code></Error>', 'application/xml');
}

/** The container's own words: its secrets are among them, as with the real image. */
function containerLines(world: World, rental: Rental): string[] {
  if (rental.runningSinceMs === null) return [];
  const isUp = rental.installation?.running() !== undefined;
  const { plan } = rental;
  return [
    ...plan.log,
    ...(world.knobs.edge.httpsFailsOpen ? ['Files are present but invalid, attempt 5 of 5.'] : []),
    ...(isUp ? ['To see the GUI go to: http://127.0.0.1:18188'] : []),
  ];
}

function daemonLines(rental: Rental): string[] {
  return rental.history.flatMap(({ message }) => (message === null ? [] : [message.trimEnd()]));
}
