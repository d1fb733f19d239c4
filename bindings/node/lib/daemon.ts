/** The daemon: where its program is, and how it is started. */

import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import { Unreachable, Unsupported } from "./errors";

/** Where `npm install` puts the program. */
const PROGRAM = join(__dirname, "agentmemd");

/** What it says when another start was quicker. */
const RUNS_ALREADY = 3;

/**
 * Starts it in the background; is kept when it listens at `socket`.
 *
 * @throws Unsupported: this installation lacks the program.
 * @throws Unreachable: it did not start; the text says what it said.
 */
export async function start(socket: string): Promise<void> {
  try {
    await access(PROGRAM, constants.X_OK);
  } catch {
    throw new Unsupported(
      `a session with the daemon needs agentmemd, and ${PROGRAM} cannot be run: npm install builds it`,
    );
  }
  await new Promise<void>((resolve, reject) => {
    execFile(PROGRAM, ["--background", `--socket=${socket}`], (error, _, said) => {
      if (error === null || error.code === RUNS_ALREADY) resolve();
      else reject(new Unreachable(`agentmemd did not start: ${said.trim() || error.message}`));
    });
  });
}
