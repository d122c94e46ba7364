package node_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// statusRef is what a JWT says of where its status is.
type statusRef struct {
	Idx int    `json:"idx"`
	URI string `json:"uri"`
}

// statusList is a list as a verifier reads it.
type statusList struct {
	head, says map[string]any
	bits       int
	raw        []byte
	text       string
}

func partOf(t *testing.T, jwt string, part int, into any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[part])
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("part %d of %q: %v", part, jwt, err)
	}
}

// refOf returns the place that the JWT names, nil for none.
func refOf(t *testing.T, jwt string) *statusRef {
	t.Helper()
	var says struct {
		Status struct {
			List *statusRef `json:"status_list"`
		} `json:"status"`
	}
	partOf(t, jwt, 1, &says)
	return says.Status.List
}

// listOf reads the list at the URI.
func (h *harness) listOf(uri string) *statusList {
	h.t.Helper()
	r := h.do("", "GET", strings.TrimPrefix(uri, publicURL), nil).want(http.StatusOK)
	if ct, cors := r.Header.Get("Content-Type"), r.Header.Get("Access-Control-Allow-Origin"); ct != "application/statuslist+jwt" || cors != "*" {
		h.t.Errorf("Content-Type %q, Access-Control-Allow-Origin %q", ct, cors)
	}
	l := &statusList{text: string(r.Raw)}
	partOf(h.t, l.text, 0, &l.head)
	partOf(h.t, l.text, 1, &l.says)
	claim := l.says["status_list"].(map[string]any)
	l.bits = int(claim["bits"].(float64))
	packed, err := base64.RawURLEncoding.DecodeString(claim["lst"].(string))
	if err != nil {
		h.t.Fatal(err)
	}
	z, err := zlib.NewReader(bytes.NewReader(packed))
	if err == nil {
		l.raw, err = io.ReadAll(z)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (l *statusList) at(idx int) int {
	return int(l.raw[idx*l.bits/8]) >> (idx * l.bits % 8) & (1<<l.bits - 1)
}

// set returns the indexes of what is not valid.
func (l *statusList) set() (all []int) {
	for i := range len(l.raw) * 8 / l.bits {
		if l.at(i) != 0 {
			all = append(all, i)
		}
	}
	return all
}

// placed is a session and where its status is.
type placed struct {
	*reply
	*statusRef
}

func (h *harness) place(key, user string) placed {
	h.t.Helper()
	r := h.do(key, "POST", "/v1/sessions", m{"user_id": user}).want(201)
	ref := refOf(h.t, r.str("session_jwt"))
	if ref == nil {
		h.t.Fatalf("a JWT without a status: %s", r.Raw)
	}
	h.recalled(key, path.Base(path.Dir(ref.URI))) // before, there are no lists
	return placed{r, ref}
}

func (h *harness) revokeIn(key string, what m) {
	h.t.Helper()
	h.do(key, "POST", "/v1/sessions/revoke", what).want(200)
}

// wantRevoked fails unless the list of the app has exactly those revoked.
func (h *harness) wantRevoked(what string, all ...placed) {
	h.t.Helper()
	want := []int{}
	for _, p := range all {
		want = append(want, p.Idx)
	}
	slices.Sort(want)
	got := h.listOf(all[0].URI).set()
	if !slices.Equal(got, want) {
		h.t.Errorf("%s: %v are revoked, want %v", what, got, want)
	}
}

// statusFresh is how long a node hands out a list that it has made.
const statusFresh = 5 * time.Second

func TestStatusList(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		if ref := refOf(t, h.login("ada").str("session_jwt")); ref != nil {
			t.Errorf("a status without the setting: %+v", ref)
		}
		shop := h.newApp("shop", m{"status_list": true})
		other := h.newApp("other", m{"status_list": true})
		var all []placed
		for i := range 8 {
			all = append(all, h.place(shop, fmt.Sprint("user-", i/2)))
			h.place(other, "user-0")
		}
		uri := publicURL + "/v1/apps/shop/status/eu/0"
		for i, p := range all {
			if p.URI != uri || i > 0 && p.Idx <= all[i-1].Idx {
				t.Errorf("place %d: %+v", i, p.statusRef)
			}
		}
		fresh := h.listOf(uri)
		if got := fresh.set(); got != nil || fresh.bits != 1 || len(fresh.raw) != 1<<17 {
			t.Errorf("before any revocation: %v of %d bytes", got, len(fresh.raw))
		}
		now := float64(time.Now().Unix())
		delete(fresh.says, "status_list")
		says := map[string]any{"iss": publicURL + "/v1/apps/shop", "sub": uri, "iat": now, "exp": now + 60, "ttl": 15.0}
		if fresh.head["typ"] != "statuslist+jwt" || len(fresh.head) != 3 || !maps.Equal(fresh.says, says) {
			t.Errorf("list %v %v, want %v", fresh.head, fresh.says, says)
		}

		// One, and nobody beside it; what is handed out stays so for 5 s.
		h.revokeIn(shop, m{"session_id": all[3].str("session.session_id")})
		if again := h.listOf(uri); again.text != fresh.text {
			t.Error("another list within 5 s")
		}
		time.Sleep(statusFresh)
		h.wantRevoked("one", all[3])
		h.revokeIn(shop, m{"user_id": "user-0", "except_session_id": all[1].str("session.session_id")})
		time.Sleep(statusFresh)
		h.wantRevoked("a user but one session", all[3], all[0])
		if got := h.listOf(publicURL + "/v1/apps/other/status/eu/0").set(); got != nil {
			t.Errorf("in another app: %v", got)
		}
		h.revokeIn(shop, m{"user_id": "user-0"})
		late := h.place(shop, "user-0")
		time.Sleep(statusFresh)
		h.wantRevoked("a user", all[3], all[0], all[1])

		// Everybody of the app: all that was created there before, whoever it was.
		h.revokeIn(shop, m{"all": true})
		later := h.place(shop, "user-9")
		time.Sleep(statusFresh)
		l := h.listOf(uri)
		for i, p := range append(all, late) {
			if l.at(p.Idx) != 1 {
				t.Errorf("%d is not revoked with all others", i)
			}
		}
		if l.at(later.Idx) != 0 {
			t.Error("what was created since is revoked")
		}
		h.revokeIn(shop, m{"session_id": later.str("session.session_id")})
		time.Sleep(statusFresh)
		if h.listOf(uri).at(later.Idx) != 1 {
			t.Error("what was created since cannot be revoked")
		}

		// An hour and some later no JWT of the one is left, and it is left out.
		gone := h.place(other, "x")
		h.revokeIn(other, m{"session_id": gone.str("session.session_id")})
		time.Sleep(statusFresh)
		h.wantRevoked("in another app", gone)
		time.Sleep(62 * time.Minute)
		if got := h.listOf(gone.URI).set(); got != nil {
			t.Errorf("long after: %v", got)
		}
	})
}

// TestStatusInEveryJWT: whatever a JWT looks like, it says where its status is, from
// when the app wants that, and lists stay for as long as a JWT names them.
func TestStatusInEveryJWT(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		profiles := []string{"native", "stytch", "streambird", "clerk"}
		for _, profile := range profiles {
			key := h.newApp("app-"+profile, m{"jwt_profile": profile, "compat": []string{}})
			path := "/v1/apps/app-" + profile
			r := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(201)
			if refOf(t, r.str("session_jwt")) != nil {
				t.Errorf("%s: a status without the setting", profile)
			}
			h.do(key, "PATCH", path, m{"status_list": true}).want(200)
			again := h.do(key, "POST", "/v1/sessions/authenticate", m{"session_token": r.str("session_token")}).want(200)
			ref := refOf(t, again.str("session_jwt"))
			if ref == nil || ref.URI != publicURL+path+"/status/eu/0" {
				t.Fatalf("%s: place %+v", profile, ref)
			}
			h.do(key, "PUT", path+"/templates/t", m{"audience": "elsewhere", "ttl_seconds": 3600}).want(200)
			minted := h.do(key, "POST", "/v1/sessions/"+r.str("session.session_id")+"/tokens", m{"template": "t"}).want(200)
			if got := refOf(t, minted.str("session_jwt")); got == nil || *got != *ref {
				t.Errorf("%s: of a template: %s", profile, minted.Raw)
			}
			h.do(key, "POST", "/v1/sessions/authenticate", m{"session_jwt": again.str("session_jwt")}).want(200)
			h.verify(again.str("session_jwt")).want(204)

			h.do(key, "PATCH", path, m{"status_list": false}).want(200)
			h.revokeIn(key, m{"session_id": r.str("session.session_id")})
			time.Sleep(statusFresh)
			if h.listOf(ref.URI).at(ref.Idx) != 1 {
				t.Errorf("%s: turned off, a JWT of before counts as good", profile)
			}
		}
		time.Sleep(62 * time.Minute)
		for _, profile := range profiles {
			h.do("", "GET", "/v1/apps/app-"+profile+"/status/eu/0", nil).wantError(404, "not_found")
		}
	})
}

func TestStatusListRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		shop := h.newApp("shop", m{"status_list": true})
		p := h.place(shop, "ada")
		path := strings.TrimPrefix(p.URI, publicURL)
		get := func(path string, headers ...string) *reply { return h.do("", "GET", path, nil, headers...) }
		get("/v1/apps/nobody/status/eu/0").wantError(404, "app_not_found")
		for _, bad := range []string{"us/0", "_config/0", "eu/2", "eu/x", "eu/00", "eu/-1", "eu/18446744073709551616"} {
			get("/v1/apps/shop/status/"+bad).wantError(404, "not_found")
		}
		get("/v1/apps/shop/status/eu/1").want(200) // sessions there may have been created elsewhere
		get(path+"?time=1700000000").wantError(501, "not_implemented")
		get(path+"?other=1").wantError(400, "invalid_argument")
		for accept, status := range map[string]int{
			"application/statuslist+jwt": 200, "*/*": 200, "application/*;q=0.5": 200, "text/html, application/statuslist+jwt;q=0.1": 200, "": 200,
			"application/statuslist+cwt": 406, "application/json": 406, "application/statuslist+jwt;q=0": 406,
		} {
			if r := get(path, "Accept", accept); r.Status != status {
				t.Errorf("Accept %q: %d", accept, r.Status)
			} else if status == 406 {
				r.wantError(406, "not_acceptable")
			}
		}
		h.do("", "POST", path, nil).wantError(405, "method_not_allowed")

		// Suspended, nobody is let in, and afterwards who was good is good again.
		h.do(h.admin, "POST", "/v1/apps/shop/suspend", nil).want(200)
		if l := h.listOf(p.URI); l.bits != 2 || l.at(p.Idx) != 2 || len(l.set()) != 1<<20 {
			t.Errorf("of a suspended app: %d bits, %d", l.bits, l.at(p.Idx))
		}
		h.do(h.admin, "POST", "/v1/apps/shop/resume", nil).want(200)
		if l := h.listOf(p.URI); l.bits != 1 || l.at(p.Idx) != 0 {
			t.Errorf("of a resumed app: %d bits, %d", l.bits, l.at(p.Idx))
		}

		// Signed with what nobody trusts any more, a list is not handed out again.
		before := h.listOf(p.URI)
		h.do(shop, "POST", "/v1/apps/shop/keys/rotate", m{"compromised": before.head["kid"]}).want(200)
		if after := h.listOf(p.URI); after.head["kid"] == before.head["kid"] {
			t.Error("signed with a compromised key")
		}

		// A node that may be behind says nothing, not even what it said a moment ago.
		h.home.Cut()
		time.Sleep(16 * time.Second)
		get(path).wantError(503, "node_stale")
		h.home.Heal()
		time.Sleep(5 * time.Second)
		get(path).want(200)
		h.do(h.admin, "DELETE", "/v1/apps/shop", nil).want(200)
		get(path).wantError(404, "app_not_found")
	})
}

// TestStatusListAnywhere: another node, one that starts later, and one whose log went
// backwards since say the same.
func TestStatusListAnywhere(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		shop := f.newApp("shop", m{"status_list": true})
		all := []placed{}
		for i := range 4 {
			all = append(all, f.place(shop, fmt.Sprint("user-", i)))
		}
		f.revokeIn(shop, m{"session_id": all[0].str("session.session_id")})
		f.revokeIn(shop, m{"user_id": "user-2"})
		time.Sleep(statusFresh)
		f.join("n3")
		for _, n := range f.nodes {
			n.recalled(shop, "eu")
			n.wantRevoked(n.name, all[0], all[2])
		}

		lost := f.place(shop, "user-9")
		f.revokeIn(shop, m{"session_id": lost.str("session.session_id")})
		time.Sleep(statusFresh)
		f.wantRevoked("before", all[0], all[2], lost)
		info, err := f.home.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.home.Truncate(int(info.LastSeq) - lost.Idx + 1) // the session, its revocation, and what came since
		time.Sleep(30 * time.Second)
		for _, n := range f.nodes { // only the first had made a list that has it
			n.wantRevoked(n.name+": after the log lost the session", all[0], all[2], lost)
		}
	})
}

// TestStatusListOfARegion: what was revoked while the region was out of reach is in
// its lists on every node, once that is reached.
func TestStatusListOfARegion(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		shop := eu1.newApp("shop", m{"status_list": true})
		time.Sleep(time.Second)
		one, two, three := us1.place(shop, "ada"), us1.place(shop, "bob"), us1.place(shop, "carol")
		home := eu1.place(shop, "carol")
		if one.URI != publicURL+"/v1/apps/shop/status/us/0" || home.URI != publicURL+"/v1/apps/shop/status/eu/0" {
			t.Errorf("places %s, %s", one.URI, home.URI)
		}
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(time.Second)
		eu1.do(shop, "POST", "/v1/sessions/revoke", m{"session_id": one.str("session.session_id")}).want(202)
		eu1.do(shop, "POST", "/v1/sessions/revoke", m{"user_id": "bob"}).want(202)
		time.Sleep(20 * time.Second)
		eu1.do("", "GET", "/v1/apps/shop/status/us/0", nil).wantError(503, "node_stale")
		c.heal()
		time.Sleep(20 * time.Second)
		for name, n := range c.nodes {
			t.Log(name)
			n.wantRevoked("of the region", one, two)
		}
		c.cut()
		time.Sleep(time.Second)
		eu1.do(shop, "POST", "/v1/sessions/revoke", m{"all": true}).want(202)
		c.heal()
		time.Sleep(40 * time.Second)
		for name, n := range c.nodes {
			t.Log(name)
			n.wantRevoked("everybody", one, two, three)
		}
		if eu1.listOf(home.URI).at(home.Idx) != 1 {
			t.Error("everybody, at home")
		}
	})
}

// TestStatusListPending: what a region is yet to be told is in its lists wherever it is
// known, however long ago it was recorded.
func TestStatusListPending(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		shop, mall := eu1.newApp("shop", m{"status_list": true}), eu1.newApp("mall", m{"status_list": true})
		time.Sleep(time.Second)
		one, two, good := us1.place(shop, "ada"), us1.place(shop, "bob"), us1.place(shop, "carol")
		all := us1.place(mall, "ada")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(20 * time.Second)
		eu1.do(shop, "POST", "/v1/sessions/revoke", m{"session_id": one.str("session.session_id")}).want(202)
		eu1.do(shop, "POST", "/v1/sessions/revoke", m{"user_id": "bob"}).want(202)
		eu1.do(mall, "POST", "/v1/sessions/revoke", m{"all": true}).want(202)
		time.Sleep(30 * time.Minute)

		// The region can be read, and takes nothing.
		for _, n := range []*continental{eu1, c.nodes["eu2"]} {
			n.links["us"].SetFaults(events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
				if isBeat(msg.Subject) {
					return nil
				}
				return events.ErrUnavailable
			}})
			n.heal()
		}
		time.Sleep(10 * time.Second)
		for range 8 {
			if us1.verify(one.str("session_token")).Status != 204 {
				t.Fatal("delivered")
			}
			eu1.wantRevoked("pending", one, two)
			if eu1.listOf(good.URI).at(good.Idx) != 0 {
				t.Error("somebody else")
			}
			eu1.wantRevoked("everybody", all)
			time.Sleep(statusFresh)
		}
	})
}
