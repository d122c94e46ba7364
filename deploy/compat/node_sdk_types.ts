// What an application does with node/client/js, for tsc to check its types.
import { createClient, expressAuth, fastifyAuth, nextMiddleware, nextRoute, RevocastError, type Client, type Session } from "../../node/client/js/index.js";

const client: Client = createClient({
  baseUrl: ["http://10.0.0.1:8080"],
  app: "shop",
  apiKey: "sk",
  onEvent: async (event) => console.log(event.type, event.session_id),
});

export async function use(shown: string | undefined): Promise<string> {
  await client.start();
  const left: number | undefined = client.status().streams[0]?.leaseMs;
  try {
    const session: Session = await client.verify(shown, { dpop: { proof: "p", htm: "GET", htu: "https://shop.example/" } });
    // @ts-expect-error it is shared by requests
    session.userId = "eve";
    return `${session.userId} ${session.expiresAt?.toISOString()} ${session.claims?.sub} ${left}`;
  } catch (error) {
    // @ts-expect-error there is no such code
    if (error instanceof RevocastError && error.code === "logged_out") return "";
    if (error instanceof RevocastError && error.code === "unavailable") return `${error.status} ${error.headers["retry-after"]}`;
    throw error;
  } finally {
    await client.stop();
  }
}

export const middleware: (req: object, res: object, next: (err?: unknown) => void) => Promise<void> = expressAuth(client, { cookies: ["sid"], origin: "https://shop.example" });
export const plugin: (fastify: object) => Promise<void> = fastifyAuth(client, { optional: true, onRefresh: (auth, request) => console.log(auth.jwt, request) });
export const GET = nextRoute(client, async (request, { auth, params }: { auth: Session; params: Promise<{ id: string }> }) => Response.json([auth.userId, request.url, (await params).id]));
export const POST = nextRoute(client, (request, { auth }) => Response.json(auth?.userId ?? request.url), { optional: true });
// @ts-expect-error nobody may be there
export const PUT = nextRoute(client, (request, { auth }) => Response.json(auth.userId), { optional: true });
export const proxy: (request: Request) => Promise<Response | undefined> = nextMiddleware(client, { login: "/login" });
// @ts-expect-error there is no answer to put a JWT into
nextMiddleware(client, { onRefresh: () => {} });
// @ts-expect-error that is for Next
expressAuth(client, { login: "/login" });
// @ts-expect-error no API key
createClient({ baseUrl: "http://10.0.0.1:8080", app: "shop" });
