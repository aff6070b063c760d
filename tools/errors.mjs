/** An error whose message is all that the user needs: printed without a stack trace. */
export class UserError extends Error {
  /** @param exitCode 2 when nothing was changed and the user has to act first, 1 otherwise. */
  constructor(message, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}
