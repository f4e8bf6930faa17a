/** Whether this browser is signed in, and as whom. */

import { useSyncExternalStore } from "react";
import { current, subscribe, type SignIn } from "../api/session";

export function useSignIn(): SignIn {
  return useSyncExternalStore(subscribe, current);
}
