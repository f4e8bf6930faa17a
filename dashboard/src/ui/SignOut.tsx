/** Whose token this browser is signed in with, and the way out. */

import { signOut } from "../api/session";
import { useSignIn } from "../state/useSignIn";

export function SignOut() {
  const signIn = useSignIn();
  if (signIn.state !== "in" || !signIn.session) return null;
  const { name, project } = signIn.session;
  const who = project ? `${name}, of the project ${project}` : name;
  return (
    <button
      type="button"
      className="button small"
      title={`Signed in with the token ${who}`}
      onClick={() => void signOut()}
    >
      Sign out
    </button>
  );
}
