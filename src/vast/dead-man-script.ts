// The loop by which a rented machine destroys itself when nobody has watched it for too long. It runs on the machine.
import type { Config } from '../config.ts';
import type { DeadMan } from '../instances/provider.ts';

type ScriptConfig = Pick<Config, 'VAST_API_URL' | 'VAST_COMFYUI_INTERNAL_PORT'>;

/** A heartbeat is a changed text in this file; ComfyUI shows it on loopback, where the image asks for no login. */
const HEARTBEAT_QUERY = 'type=input&subfolder=comfyfleet&filename=heartbeat.txt';
const LOOK_EVERY_SECONDS = 20;
/** A stop needs fewer rights than a destroy and ends at least the GPU's price; it ends the loop too, so it comes last. */
const TRIES_BEFORE_STOP = 10;

/**
 * The start script with the loop before it; unchanged without a switch. The loop counts on /proc/uptime, so that a clock
 * that is set cannot trigger it. It destroys its own instance with the restricted key that vast.ai puts into the container, which
 * is how vast.ai's own image does it when provisioning fails; the key goes through stdin, where no list of processes shows it.
 * vast.ai takes at most 4048 characters.
 */
export function withDeadManSwitch(start: string, config: ScriptConfig, deadMan: DeadMan | null): string {
  if (deadMan === null) return start;
  const { limitSeconds, firstSeconds } = deadMan;
  const port = config.VAST_COMFYUI_INTERNAL_PORT;
  const lookSeconds = Math.max(1, Math.min(LOOK_EVERY_SECONDS, Math.floor(limitSeconds / 10)));
  return `# dead-man-switch limit=${limitSeconds} first=${firstSeconds} port=${port} heartbeat=${HEARTBEAT_QUERY}
(
  set +e
  of_boot() { tr '\\0' '\\n' </proc/1/environ | sed -n "s/^$1=//p" | head -n 1; }
  up() { cut -d. -f1 /proc/uptime; }
  id=\${CONTAINER_ID:-$(of_boot CONTAINER_ID)}
  key=\${CONTAINER_API_KEY:-$(of_boot CONTAINER_API_KEY)}
  url="${config.VAST_API_URL}/api/v0/instances/$id/"
  vast() { printf 'header = "Authorization: Bearer %s"\\n' "$key" | curl -fsS -m 30 -K - -H 'Content-Type: application/json' "$@" "$url"; }
  limit=${firstSeconds} since=$(up) last= tries=0
  while sleep ${lookSeconds}; do
    beat=$(curl -fsS -m 10 "http://127.0.0.1:${port}/view?${HEARTBEAT_QUERY}" 2>/dev/null)
    if [ -n "$beat" ] && [ "$beat" != "$last" ]; then last=$beat limit=${limitSeconds} since=$(up) tries=0; fi
    [ $(($(up) - since)) -lt "$limit" ] && continue
    tries=$((tries + 1))
    echo "No heartbeat for $(($(up) - since)) s: destroying instance $id, try $tries"
    vast -X DELETE -d '{}'
    [ "$tries" -ge ${TRIES_BEFORE_STOP} ] && vast -X PUT -d '{"state":"stopped"}'
  done
) </dev/null >>"\${TMPDIR:-/tmp}/dead-man-switch.log" 2>&1 &
${start}`;
}
