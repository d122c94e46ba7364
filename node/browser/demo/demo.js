// The demo of revocast.js: what a page does with it, and what it shows of it.
import { createSession } from "../browser/revocast.js";

const at = (id) => document.getElementById(id);
const session = createSession({ onChange: show });
// For the console, and for tests.
globalThis.demo = { session, renewals: 0 };

let life = 0; // of the JWT shown, in ms
let shown = "";
let before = session.state;

function log(text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  line.append(time, text);
  at("log").prepend(line);
}

function show(state) {
  if (state.status !== before.status) log(state.status === "active" ? `signed in as ${state.session.user_id}` : `${state.status.replace("_", " ")}: ${state.reason}`);
  if (state.leader !== before.leader) log(state.leader ? "this tab leads" : "another tab leads");
  before = state;
  document.querySelector("main").dataset.status = state.status;
  document.title = `${state.status.replace("_", " ")} · Revocast demo`;
  at("status").textContent = state.status === "active" ? "signed in" : state.status.replace("_", " ");
  at("reason").textContent = state.reason && `(${state.reason})`;
  at("leader").hidden = !state.leader;
  at("user").textContent = state.session?.user_id ?? "";
  at("sid").textContent = state.session?.session_id ?? "";
  at("error").textContent = state.error ? `${state.error.message}; nobody was signed out` : "";
}

// The ticking JWT.
setInterval(async () => {
  if (session.state.status !== "active") return;
  const jwt = await session.getToken().catch(() => "");
  if (jwt && jwt !== shown) {
    if (shown) log(`the JWT was renewed (${demo.renewals + 1})`);
    demo.renewals += shown ? 1 : 0;
    [shown, life] = [jwt, session.expiresIn];
    at("jwt").textContent = `${jwt.slice(0, 12)}…${jwt.slice(-12)}`;
    at("renewals").textContent = demo.renewals;
  }
  at("left").textContent = `${Math.ceil(session.expiresIn / 1000)} s`;
  at("bar").value = life ? session.expiresIn / life : 0;
}, 250);

// What the backend of an application would do.
async function backend(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).error_message);
}

const actions = {
  verify: async () => log(`GET /v1/verify: ${(await session.fetch("../v1/verify?body=1")).status}`),
  revoke: () => backend("revoke", {}),
  everywhere: () => backend("revoke", { everywhere: true }),
  signOut: () => session.signOut(),
};

async function act(f) {
  at("error").textContent = "";
  try {
    await f();
  } catch (error) {
    at("error").textContent = error.message;
  }
}

document.addEventListener("click", ({ target }) => {
  if (target.dataset?.do) void act(actions[target.dataset.do]);
});

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = new FormData(event.target).get("user");
  void act(async () => {
    await backend("login", { user_id: user });
    await session.refresh(); // and the other tabs are told
  });
});
