package compat

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// demo is a node in development mode, its demo, and a browser.
type demo struct {
	t    *testing.T
	node *node
	road *road
	b    *chromium
	rows *table
	outs []time.Duration // from the revoke to the sign-out of a tab
}

func newDemo(t *testing.T) *demo {
	t.Helper()
	b := newChromium(t)
	addr := freeAddr(t)
	d := &demo{t: t, b: b, node: newNode(t, "--dev", "--public-url", "http://"+addr), rows: newTable(t, "what", "shown")}
	d.road = newRoad(t, d.node, addr)
	d.node.app().do(t, "PATCH", "/v1/apps/app", object{"client_jwt_ttl_seconds": 30}).want(t, http.StatusOK)
	return d
}

// watch notes when a page hears of the end, by the clock of this machine.
const watch = `globalThis.outAt = 0; globalThis.states = []; demo.session.onChange((s) => {
	states.push([Date.now() % 1e5, s.status, s.reason, s.error?.message].join(" "));
	if (s.status === "signed_out" && globalThis.wasIn) globalThis.outAt ||= Date.now();
	globalThis.wasIn = s.status === "active";
}); globalThis.wasIn = demo.session.state.status === "active"; true`

func (d *demo) open(name string, scripts ...string) *tab {
	d.t.Helper()
	p := d.b.open(d.t, name, d.road.url+"/demo/", scripts...)
	p.await(10*time.Second, `globalThis.demo && demo.session.state.status !== "starting"`)
	js[bool](p, watch)
	return p
}

// login logs the user in on the page, by its form.
func (d *demo) login(p *tab, user string) {
	d.t.Helper()
	js[bool](p, fmt.Sprintf(`document.querySelector("#login [name=user]").value = %q; document.querySelector("#login button").click(); true`, user))
	p.await(5*time.Second, fmt.Sprintf(`demo.session.state.session?.user_id === %q`, user))
}

func (d *demo) leaders(tabs []*tab) (all []*tab) {
	d.t.Helper()
	for _, p := range tabs {
		if js[bool](p, "demo.session.state.leader") {
			all = append(all, p)
		}
	}
	return all
}

// allOut waits until every tab is signed out, and returns how long after begun the last
// was.
func (d *demo) allOut(begun time.Time, tabs []*tab, reason string) time.Duration {
	d.t.Helper()
	var last time.Duration
	for _, p := range tabs {
		p.await(10*time.Second, "outAt > 0")
		took := time.UnixMilli(int64(js[float64](p, "outAt"))).Sub(begun)
		d.outs = append(d.outs, took)
		last = max(last, took)
		if got := js[string](p, "demo.session.state.status + demo.session.state.reason"); got != "signed_out"+reason {
			d.t.Errorf("tab %s: %s, want signed out: %s; it was %s", p.name, got, reason, js[string](p, `states.join("; ")`))
		}
		js[bool](p, "globalThis.outAt = 0; true")
	}
	return last
}

// TestBrowserModule drives the demo of the module for browsers in Chromium: three
// tabs, of which one leads.
func TestBrowserModule(t *testing.T) {
	t.Parallel() // JWTs have to be renewed
	d := newDemo(t)
	a := d.open("a")
	d.rows.row(unless(a.state() == "signed_out", "%s", a.state()), "nobody is logged in", "the page says so")
	d.login(a, "ada")
	tabs := []*tab{a, d.open("b"), d.open("c")}
	sids, jwts := map[string]bool{}, map[string]bool{}
	for _, p := range tabs {
		sids[js[string](p, "demo.session.state.session.session_id")] = true
		jwts[js[string](p, "demo.session.getToken()")] = true
		p.screenshot("signed-in")
	}
	missing := ""
	for member := range strings.SplitSeq(js[string](a, `Object.getOwnPropertyNames(Object.getPrototypeOf(demo.session)).join()`), ",") {
		if member != "constructor" && !regexp.MustCompile(`\n  (readonly )?`+member+`[:(]`).Match(moduleTypes(t)) {
			missing += member + " "
		}
	}
	d.rows.row(unless(missing == "", "%s", missing), "types", "have every member")
	leaders := d.leaders(tabs)
	d.rows.row(unless(len(leaders) == 1 && leaders[0] == a, "%d leaders", len(leaders)), "three tabs", "one leads: the first")
	d.rows.row(unless(len(sids) == 1 && len(jwts) == 1, "%d sessions, %d JWTs", len(sids), len(jwts)), "three tabs", "one session, one JWT")
	d.rows.row(unless(js[int](a, "localStorage.length + sessionStorage.length + document.cookie.length") == 0, "something is kept"), "no secret", "in no storage, in no cookie that scripts read")
	expires := time.Time{}
	if testing.Short() {
		t.Log("NOT TESTED: -short: renewals take 40 s, the shortest session a minute")
	} else {
		expires = d.brief(tabs[1])
		d.renewals(tabs)
	}
	tabs = d.leaderCloses(tabs)
	d.revocations(tabs)
	if !testing.Short() {
		d.expired(tabs[0], expires)
	}
	d.rows.row(unless(js[int](tabs[0], "localStorage.length + sessionStorage.length + document.cookie.length") == 0, "something is kept"), "no secret", "nor afterwards")
	t.Logf("screenshots are in %s (kept with go test -artifacts)", d.b.dir)
}

// brief has the page use a session of a minute as well, and returns when that ends.
func (d *demo) brief(p *tab) time.Time {
	d.t.Helper()
	r := d.node.app().do(d.t, "POST", "/v1/sessions", object{"user_id": "bob", "session_duration_minutes": 1}).want(d.t, http.StatusCreated)
	js[bool](p, `import("/browser/revocast.js").then((m) => {
		globalThis.brief = m.createSession({token: "`+r.SessionToken+`", onChange(s) { if (s.status === "signed_out") globalThis.briefAt ??= Date.now(); }});
		return brief.getToken();
	}).then(() => true)`)
	return r.Session.ExpiresAt
}

func (d *demo) expired(p *tab, at time.Time) {
	p.await(time.Until(at)+10*time.Second, `brief.state.status === "signed_out"`)
	took := time.UnixMilli(int64(js[float64](p, "briefAt"))).Sub(at)
	reason := js[string](p, "brief.state.reason")
	d.rows.row(unless(reason == "expired" && took > -time.Second && took < time.Second, "%v, %s", took, reason), "a session expires",
		fmt.Sprintf("its page is signed out %v after that; others stay: %s", took, p.state()))
}

// renewals waits for two: in the first the leader is hidden and the others are not, in
// the second all are.
func (d *demo) renewals(tabs []*tab) {
	renewed := func(n int) {
		for _, p := range tabs {
			p.await(60*time.Second, fmt.Sprintf("demo.renewals >= %d", n))
		}
	}
	before := len(d.road.asked(0))
	tabs[0].minimize(true)
	renewed(1)
	first := d.road.asked(before)
	d.rows.row(unless(len(first) == 1 && !first[0].background, "%+v", first), "renewed", "asked for once, by the hidden leader; tabs are looked at, so it is a use")
	tabs[1].minimize(true)
	tabs[2].minimize(true)
	// What a hidden tab asks for by itself is no use either.
	js[string](tabs[1], "demo.session.getToken({fresh: true})")
	renewed(2)
	second := d.road.asked(before + 1)
	hidden := slices.IndexFunc(second, func(a asked) bool { return !a.background }) < 0
	d.rows.row(unless(len(second) == 2 && hidden, "%+v", second), "renewed again", "all tabs are hidden: no use of the session")
	for _, p := range tabs {
		d.rows.row(unless(js[int](p, "demo.renewals") == 2 && p.state() == "active", "%d times, %s", js[int](p, "demo.renewals"), p.state()), "tab "+p.name, "has the new JWT")
		p.minimize(false)
		p.screenshot("renewed")
	}
}

func (d *demo) leaderCloses(tabs []*tab) []*tab {
	before := len(d.road.asked(0))
	tabs[0].end()
	begun := time.Now()
	for len(d.leaders(tabs[1:])) == 0 && time.Since(begun) < 10*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	n := len(d.leaders(tabs[1:]))
	d.rows.row(unless(n == 1 && len(d.road.asked(before)) == 0, "%d leaders", n), "the leader's tab closes", fmt.Sprintf("another leads after %v", time.Since(begun).Round(time.Millisecond)))
	return append(tabs[1:], d.open("d"))
}

// revocations revokes again and again, by session, by user, in the page, and measures.
func (d *demo) revocations(tabs []*tab) {
	key := d.node.app()
	for round := range 12 {
		sid := js[string](tabs[0], "demo.session.state.session.session_id")
		jwt := js[string](tabs[0], "demo.session.getToken()")
		begun, reason := time.Now(), "revoked"
		switch round % 3 {
		case 0:
			key.do(d.t, "POST", "/v1/sessions/revoke", object{"session_id": sid}).want(d.t, http.StatusOK)
		case 1:
			key.do(d.t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(d.t, http.StatusOK)
		case 2:
			js[bool](tabs[1], `document.querySelector("[data-do=everywhere]").click(); true`)
		}
		took := d.allOut(begun, tabs, reason)
		if round < 3 {
			how := []string{"the session", "the user, everywhere", "in the page"}[round]
			d.rows.row(unless(took < time.Second, "after %v", took), "revoked: "+how, fmt.Sprintf("every tab is signed out after %v", took))
			tabs[round].screenshot("signed-out")
		}
		if refused := key.verify(d.t, jwt).status; refused != http.StatusUnauthorized {
			d.t.Errorf("the JWT of a session that was revoked: %d", refused)
		}
		d.login(tabs[round%3], "ada")
		for _, p := range tabs {
			p.await(5*time.Second, `demo.session.state.status === "active"`)
		}
	}
	slices.Sort(d.outs)
	worst := d.outs[len(d.outs)-1]
	d.rows.row(unless(worst < time.Second, "%v", worst), "revoke to sign-out", fmt.Sprintf("median %v, worst %v of %d", d.outs[len(d.outs)/2], worst, len(d.outs)))
}

// TestBrowserModuleTrouble: nothing but a verdict of the node signs anybody out, and
// nothing brings back what has ended.
func TestBrowserModuleTrouble(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	a := d.open("a")
	d.login(a, "ada")
	tabs := []*tab{a, d.open("b")}
	for mode, want := range map[string]string{fails: "unreachable 503", portal: "unreachable 0", foreign401: "refused 401"} {
		d.road.set(mode)
		for _, p := range tabs {
			got := js[string](p, `demo.session.refresh().then(() => "taken", (e) => e.code + " " + e.status)`)
			d.rows.row(unless(got == want && p.state() == "active", "%s, %s", got, p.state()), "the road: "+mode, "tab "+p.name+": nobody is signed out, the error is "+want)
			still := js[string](p, "demo.session.getToken()")
			d.rows.row(unless(strings.Count(still, ".") == 2, "%q", still), "the road: "+mode, "the JWT at hand is still good")
		}
		out := js[string](a, `demo.session.signOut().then(() => "done", (e) => e.code)`)
		d.rows.row(unless(out != "done" && a.state() == "active", "%s", out), "the road: "+mode, "a log-out that did not happen is not said to have")
	}
	tabs[0].screenshot("unreachable")
	d.road.set("")
	d.nodeGone(tabs)
	d.offline(tabs)
	d.late(tabs)
	d.switched(tabs)
	d.clocks(tabs[0])
	d.loggedOut(tabs)
	d.hasty(tabs)
}

// nodeGone kills the node and starts it again.
func (d *demo) nodeGone(tabs []*tab) {
	if err := d.node.kill(); err != nil {
		d.t.Fatal(err)
	}
	for _, p := range tabs {
		js[bool](p, `demo.session.refresh().catch(() => true).then(() => true)`)
		d.rows.row(unless(p.state() == "active", "%s", p.state()), "the node is killed", "nobody is signed out")
	}
	d.node.start(d.t)
	before := len(d.road.asked(0))
	for _, p := range tabs {
		p.await(45*time.Second, "demo.session.state.error === null")
	}
	d.rows.row(unless(len(d.road.asked(before)) > 0, "nobody asked"), "the node is back", "so are the tabs, by themselves")
	d.road.streams(d.t, 1)
	begun := time.Now()
	d.node.app().do(d.t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(d.t, http.StatusOK)
	took := d.allOut(begun, tabs, "revoked")
	d.rows.row(unless(took < time.Second, "%v", took), "revoked after that", fmt.Sprintf("signed out after %v", took))
	d.login(tabs[1], "ada")
	tabs[0].await(5*time.Second, `demo.session.state.status === "active"`)
}

// offline takes the network away from the browser.
func (d *demo) offline(tabs []*tab) {
	cut := func(offline bool) {
		for _, p := range tabs {
			p.offline(offline)
		}
	}
	cut(true)
	for _, p := range tabs {
		got := js[string](p, `demo.session.refresh().then(() => "taken", (e) => e.code)`)
		d.rows.row(unless(got == "unreachable" && p.state() == "active", "%s, %s", got, p.state()), "offline", "tab "+p.name+": nobody is signed out")
	}
	begun := time.Now()
	cut(false)
	for _, p := range tabs {
		p.await(2*time.Second, "demo.session.state.error === null")
	}
	d.rows.row("", "online again", fmt.Sprintf("all is well after %v", time.Since(begun).Round(time.Millisecond)))
	d.road.streams(d.t, 1)
}

// late revokes while the answer to a refresh is on its way.
func (d *demo) late(tabs []*tab) {
	d.road.set(answered)
	for _, p := range tabs {
		js[bool](p, `globalThis.late = demo.session.getToken({fresh: true}).then(() => "taken", (e) => e.code); true`)
	}
	d.road.keeps(d.t, len(tabs))
	begun := time.Now()
	d.node.app().do(d.t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(d.t, http.StatusOK)
	took := d.allOut(begun, tabs, "revoked")
	d.road.set("")
	for _, p := range tabs {
		got := js[string](p, "globalThis.late")
		d.rows.row(unless(got == "signed_out" && p.state() == "signed_out", "%s, %s", got, p.state()), "revoked with a refresh under way", fmt.Sprintf("out after %v; the late answer brings nothing back", took))
	}
	d.login(tabs[1], "ada")
	tabs[0].await(5*time.Second, `demo.session.state.status === "active"`)
}

// switched logs another user in, in one tab, while the first one's session lives on.
func (d *demo) switched(tabs []*tab) {
	old := js[string](tabs[0], "demo.session.state.session.session_id")
	js[bool](tabs[1], `fetch("/demo/login", {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"user_id": "eve"}'}).then(() => demo.session.refresh()).then(() => true)`)
	for _, p := range tabs {
		p.await(5*time.Second, `demo.session.state.session?.user_id === "eve"`)
	}
	d.rows.row(unless(len(d.leaders(tabs)) == 1, "leaders"), "another user logs in", "every tab has the new session")
	d.node.app().do(d.t, "POST", "/v1/sessions/revoke", object{"session_id": old}).want(d.t, http.StatusOK)
	// A refresh later, all tabs have heard of it if they were to.
	for _, p := range tabs {
		got := js[string](p, "demo.session.refresh().then((s) => s.status + s.session.user_id)")
		d.rows.row(unless(got == "activeeve", "%s", got), "the old session is revoked", "the new one's tabs stay")
	}
	js[bool](tabs[0], "globalThis.outAt = 0; true")
}

// clocks sets the clock of the page.
func (d *demo) clocks(p *tab) {
	for _, hours := range []int{1000, -1000} {
		before := len(d.road.asked(0))
		js[bool](p, fmt.Sprintf("globalThis.real ??= Date.now; Date.now = () => real() + %d * 3600e3; true", hours))
		got := js[string](p, "demo.session.getToken().then((t) => demo.session.fetch('/v1/verify')).then((r) => r.status + demo.session.state.status)")
		asked := len(d.road.asked(before))
		d.rows.row(unless(got == "204active" && asked <= 1, "%s, %d requests", got, asked), "the clock of the page is set", fmt.Sprintf("by %d h: it has a JWT that is good, after %d requests", hours, asked))
	}
	js[bool](p, "Date.now = real; true")
}

// loggedOut signs out in one tab.
func (d *demo) loggedOut(tabs []*tab) {
	begun := time.Now()
	js[bool](tabs[1], "demo.session.signOut().then(() => true)")
	took := d.allOut(begun, tabs, "logout")
	d.rows.row(unless(took < time.Second, "%v", took), "a log-out in one tab", fmt.Sprintf("every tab is signed out after %v", took))
	got := js[string](tabs[0], `demo.session.getToken().then(() => "taken", (e) => e.code + e.reason)`)
	d.rows.row(unless(got == "signed_outlogout", "%s", got), "signed out", "there is no JWT, and why")
	got = js[string](tabs[0], `demo.session.refresh().then((s) => s.status + s.reason)`)
	d.rows.row(unless(got == "signed_outmissing" || got == "signed_outlogout", "%s", got), "signed out", "the cookie is gone")
}

// hasty signs out on a page that does not know yet who is signed in: the answer to what it
// asked when it was loaded comes afterwards.
func (d *demo) hasty(tabs []*tab) {
	d.login(tabs[0], "ada")
	tabs[1].await(5*time.Second, `demo.session.state.status === "active"`) // it asks by itself
	d.road.set(answered)
	p := d.b.open(d.t, "hasty", d.road.url+"/demo/")
	p.await(10*time.Second, "globalThis.demo")
	js[bool](p, watch)
	d.road.keeps(d.t, 1)
	out := js[string](p, `demo.session.signOut().then(() => demo.session.state.status + demo.session.state.reason, (e) => e.code)`)
	d.road.set("")
	after := js[string](p, `demo.session.getToken().then(() => "taken", (e) => e.code).then((got) => demo.session.refresh().then(() => got + " " + states.join("; ")))`)
	d.rows.row(unless(out == "signed_outlogout" && strings.HasPrefix(after, "signed_out ") && !strings.Contains(after, " active"), "%s, then %s", out, after),
		"signed out before it was known who is in", "the late answer signs nobody in")
	p.end()
}

// TestBrowserModuleAlone: without what tabs need to speak to each other, each goes by
// itself, and no two apps or sessions get into each other's way.
func TestBrowserModuleAlone(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	for what, missing := range map[string]string{
		"Web Locks": "Object.defineProperty(Navigator.prototype, 'locks', {value: undefined})", "BroadcastChannel": "delete globalThis.BroadcastChannel",
		"leave to use locks": "LockManager.prototype.request = () => Promise.reject(new DOMException('no', 'SecurityError'))",
	} {
		a := d.open("a", missing)
		d.login(a, "ada")
		b := d.open("b", missing)
		d.road.streams(t, 2)
		d.rows.row(unless(len(d.leaders([]*tab{a, b})) == 0 && b.state() == "active", "%s", b.state()), "without "+what, "each tab has an event stream of its own")
		begun := time.Now()
		d.node.app().do(t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(t, http.StatusOK)
		took := d.allOut(begun, []*tab{a, b}, "revoked")
		d.rows.row(unless(took < time.Second, "%v", took), "without "+what, fmt.Sprintf("revoked: both are signed out after %v", took))
		a.end()
		b.end()
	}
	a := d.open("a")
	d.login(a, "ada")
	d.twoApps(a)
	d.elsewhere(a)
	d.put(a)
	if testing.Short() {
		t.Log("NOT TESTED: -short: a leader that was stopped is missed after 15 s")
		return
	}
	d.stopped(a)
}

// twoApps has the page use another app as well, whose session it has not.
func (d *demo) twoApps(a *tab) {
	other := d.node.newApp(d.t, "other", object{"origins": []string{d.road.url}})
	token := other.create(d.t, "bob").SessionToken
	b := d.open("b")
	js[bool](a, `import("/browser/revocast.js").then((m) => { globalThis.other = m.createSession({app: "other"}); globalThis.bob = m.createSession({app: "other", token: "`+token+`"}); return bob.getToken() }).then(() => true)`)
	got := js[string](a, `other.getToken().then(() => "taken", (e) => e.code + " " + e.reason).then((t) => t + " " + bob.state.session.user_id + " " + demo.session.state.session.user_id)`)
	d.rows.row(unless(got == "signed_out unknown bob ada", "%s", got), "two apps, and two sessions of one", "each goes by itself")
	got = js[string](b, `demo.session.refresh().then((s) => s.status + s.session.user_id)`)
	d.rows.row(unless(got == "activeada", "%s", got), "the other app knows nobody", "the first app's tabs, and cookie, stay")
	for origin, want := range map[string]string{"https://evil.example": "refused", d.road.url: "204"} {
		got = js[string](a, `bob.fetch("`+origin+`/v1/verify?app=other").then((r) => String(r.status), (e) => e.code)`)
		d.rows.row(unless(got == want, "%s", got), "fetch "+map[string]string{"204": "of the page's origin", "refused": "of another origin"}[want], want)
	}
	js[bool](a, "other.close(); bob.close(); true")
	b.end()
}

// elsewhere uses the module, and a token, on a page of another origin.
func (d *demo) elsewhere(a *tab) {
	token := d.node.app().create(d.t, "cyd").SessionToken
	origin := "http://localhost:" + d.road.url[strings.LastIndex(d.road.url, ":")+1:]
	p := d.b.open(d.t, "elsewhere", origin+"/healthz")
	begin := `import("` + d.road.url + `/browser/revocast.js").then((m) => { globalThis.demo = {session: m.createSession({url: "` + d.road.url + `", token: "` + token + `"})}; return demo.session.getToken() }).then(() => "taken", (e) => e.code + " " + e.reason)`
	got := js[string](p, begin)
	d.rows.row(unless(got == "unreachable " || got == "refused origin_not_allowed", "%s", got), "an origin that is not listed", "gets nothing, and nobody is signed out: "+got)
	js[bool](p, "demo.session.close(); true")
	d.node.app().do(d.t, "PATCH", "/v1/apps/app", object{"origins": []string{origin}}).want(d.t, http.StatusOK)
	got = js[string](p, begin)
	js[bool](p, watch)
	d.road.streams(d.t, 2)
	d.rows.row(unless(got == "taken", "%s", got), "an origin that is listed", "has a session by its token")
	begun := time.Now()
	d.node.app().do(d.t, "POST", "/v1/sessions/revoke", object{"user_id": "cyd"}).want(d.t, http.StatusOK)
	took := d.allOut(begun, []*tab{p}, "revoked")
	d.rows.row(unless(took < time.Second && a.state() == "active", "%v, %s", took, a.state()), "revoked", fmt.Sprintf("signed out after %v; the other session stays", took))
	p.end()
}

// put has the page put away and shown again, as a history does (bfcache).
func (d *demo) put(a *tab) {
	js[bool](a, `dispatchEvent(new PageTransitionEvent("pagehide", {persisted: true})); true`)
	d.road.streams(d.t, 0)
	d.rows.row(unless(len(d.leaders([]*tab{a})) == 0, "it leads"), "the page is put away", "it leads no more, and hears nothing")
	d.node.app().do(d.t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(d.t, http.StatusOK)
	begun := time.Now()
	js[bool](a, `dispatchEvent(new PageTransitionEvent("pageshow", {persisted: true})); true`)
	took := d.allOut(begun, []*tab{a}, "revoked")
	d.rows.row(unless(took < time.Second, "%v", took), "revoked meanwhile; it is shown again", fmt.Sprintf("signed out after %v", took))
	d.login(a, "ada")
	d.road.streams(d.t, 1)
}

// stopped stops the leader's scripts, as a system does that saves power: it keeps its
// lock and answers nothing.
func (d *demo) stopped(a *tab) {
	b := d.open("b")
	go func() { // it never comes back
		_, _ = chromedp.Run(a.ctx, chromedp.Evaluate[int]("for (;;);"))
	}()
	took := b.await(40*time.Second, "demo.session.state.leader")
	begun := time.Now()
	d.node.app().do(d.t, "POST", "/v1/sessions/revoke", object{"user_id": "ada"}).want(d.t, http.StatusOK)
	out := d.allOut(begun, []*tab{b}, "revoked")
	d.rows.row(unless(out < time.Second, "%v", out), "the leader is stopped", fmt.Sprintf("another leads after %v, and is told of a revocation in %v", took.Round(time.Millisecond), out))
}

// TestBrowserModuleTypes has tsc check the module's types, and that they are those of
// what the module exports.
func TestBrowserModuleTypes(t *testing.T) {
	t.Parallel()
	needPackages(t, "typescript")
	tsc := exec.Command("node", "node_modules/typescript/bin/tsc", "--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "nodenext",
		"--moduleResolution", "nodenext", "--lib", "es2022,dom", "revocast_types.ts")
	if out, err := tsc.CombinedOutput(); err != nil {
		t.Errorf("tsc: %v\n%s", err, out)
	}
	script := exec.Command("node", "--input-type=module", "-e", `import("./revocast.js").then((m) => console.log(Object.keys(m).join()))`)
	script.Dir = filepath.Join("..", "..", "node", "browser")
	out, err := script.Output()
	if err != nil {
		t.Fatalf("import the module: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSpace(string(out)), ",") {
		if !regexp.MustCompile(`export (class|function) ` + name + `\b`).Match(moduleTypes(t)) {
			t.Errorf("the types lack %s", name)
		}
	}
}

func moduleTypes(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "node", "browser", "revocast.d.ts"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
