// What a page does with node/browser/revocast.js, for tsc to check its types.
import { createSession, SessionError, type Session, type SessionState } from "../../node/browser/revocast.js";

const session: Session = createSession({
  url: "https://id.example.com",
  app: "shop",
  origins: ["https://api.example.com"],
  onChange(state: SessionState) {
    if (state.status === "signed_out" && state.reason === "revoked") location.assign("/login");
    const user: string | undefined = state.session?.user_id;
    document.title = user ?? state.error?.code ?? "";
  },
});
const off: () => void = session.onChange((state) => void state.leader);

export async function use(): Promise<Response> {
  try {
    const jwt: string = await session.getToken({ fresh: true });
    document.title = `${jwt.length} ${session.expiresIn.toFixed()}`;
  } catch (error) {
    if (error instanceof SessionError && error.code === "unreachable") document.title = error.retryAfter.toFixed();
  }
  const state: SessionState = await session.refresh();
  await session.signOut();
  session.close();
  off();
  // @ts-expect-error there is no such option
  createSession({ secret: "x" });
  // @ts-expect-error the state is not for the page to change
  state.leader = true;
  // @ts-expect-error it is no status
  if (state.status === "stale") session.close();
  return session.fetch("/api", { method: "POST" });
}
