/**
 * How a verb ends. 0: done. 1: it failed. 2: the input is wrong, and nothing was touched. 3: the input is right, but the VM or the
 * host is not in a state for it, and nothing was touched. 130: broken off by Ctrl-C.
 */
export const EXIT = { failed: 1, input: 2, state: 3, interrupted: 130 } as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** What a message is about; `--json` prints it as it is. */
export interface ErrorDetails {
  /** Argument, option or path in the stack file. */
  field?: string;
  value?: unknown;
  /** What would be accepted, in words. */
  allowed?: string;
}

/** An end that a user can do something about: one message, no stack trace. */
export class CliError extends Error {
  constructor(
    message: string,
    readonly code: ExitCode = EXIT.failed,
    readonly details: ErrorDetails = {},
  ) {
    super(message);
    this.name = "CliError";
  }
}

/** `<field>: "<value>" <message>; allowed: <allowed>`, the form of all mistakes of input. */
export function wrongInput(field: string, value: unknown, message: string, allowed: string): CliError {
  const shown = value === undefined ? "" : `${JSON.stringify(value)} `;
  const text = `${field}: ${shown}${message}${allowed === "" ? "" : `; allowed: ${allowed}`}`;
  return new CliError(text, EXIT.input, { field, value, allowed });
}

/** What is asked for cannot be done as things are. */
export function wrongState(message: string, details: ErrorDetails = {}): CliError {
  return new CliError(message, EXIT.state, details);
}

/** Ctrl-C, once all that had been begun was put right. */
export class Interrupted extends CliError {
  constructor(message = "broken off") {
    super(message, EXIT.interrupted);
  }
}
