/** Every failure of a request as an error that a person can read. */

import type { FieldError, Problem } from "./types";

export class ApiError extends Error {
  /** `status` 0: the server could not be reached at all. */
  constructor(
    readonly status: number,
    message: string,
    readonly problem: Problem | null = null,
  ) {
    super(message);
  }

  /** What is wrong with which field of the request. */
  get fields(): readonly FieldError[] {
    return this.problem?.errors ?? [];
  }

  /** Nobody is signed in (any more). */
  get unauthorized(): boolean {
    return this.status === 401;
  }

  /** The change came without the session's CSRF token, or with the one of a former session. */
  get staleSession(): boolean {
    return this.problem?.type === "urn:winnow:problem:csrf";
  }
}

export async function asError(response: Response): Promise<ApiError> {
  const problem = (await response.json().catch(() => null)) as Problem | null;
  const text = problem?.detail || problem?.title || `The server answered ${response.status}.`;
  return new ApiError(response.status, text, problem);
}
