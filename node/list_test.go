package node_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// walk reads all pages and returns the session ids in order.
func (h *harness) walk(query url.Values) (sids []string) {
	h.t.Helper()
	for range 10_000 {
		r := h.do(h.key, "GET", "/v1/sessions?"+query.Encode(), nil).want(200)
		page, _ := r.at("sessions").([]any)
		for _, s := range page {
			sids = append(sids, s.(m)["session_id"].(string))
		}
		cursor := r.str("next_cursor")
		if cursor == "" {
			return sids
		}
		query.Set("cursor", cursor)
	}
	h.t.Fatal("the pages have no end")
	return nil
}

func TestListPages(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		const n = 1000
		var created []string
		for i := range n {
			if i%3 == 0 {
				time.Sleep(time.Millisecond) // several share one
			}
			created = append(created, h.login("ada").str("session.session_id"))
		}
		h.login("eve")
		r := h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil).want(200)
		if page := r.at("sessions").([]any); len(page) != 100 || r.at("total") != float64(n) || r.str("next_cursor") == "" {
			t.Errorf("first page has %d of %v", len(page), r.at("total"))
		}
		if r := h.do(h.key, "GET", "/v1/sessions", nil).want(200); r.at("total") != float64(n+1) {
			t.Errorf("app: total %v", r.at("total"))
		}
		for _, limit := range []string{"1", "7", "100", "333", "500"} {
			if limit == "1" && testing.Short() {
				continue
			}
			got := h.walk(url.Values{"user_id": {"ada"}, "limit": {limit}})
			seen := map[string]bool{}
			for _, sid := range got {
				seen[sid] = true
			}
			if len(got) != n || len(seen) != n {
				t.Fatalf("limit %s: %d sessions, %d different, want %d", limit, len(got), len(seen), n)
			}
		}
		// By user and by app, in small pages and in large ones: one order.
		small, large := h.walk(url.Values{"limit": {"60"}}), h.walk(url.Values{"limit": {"500"}})
		if diff := cmp.Diff(small, large); diff != "" || len(small) != n+1 {
			t.Errorf("the order depends on the page: %s", diff)
		}

		// What is created or revoked between two pages neither repeats nor hides
		// what was there all the time.
		first := h.do(h.key, "GET", "/v1/sessions?user_id=ada&limit=500", nil).want(200)
		time.Sleep(time.Millisecond)
		h.login("ada")
		h.do(h.key, "DELETE", "/v1/sessions/"+first.at("sessions").([]any)[0].(m)["session_id"].(string), nil).want(200)
		rest := h.walk(url.Values{"user_id": {"ada"}, "cursor": {first.str("next_cursor")}})
		if len(rest) != n-500 {
			t.Errorf("second half has %d", len(rest))
		}
		for _, tc := range []struct {
			status string
			want   float64
		}{{"active", n}, {"revoked", 1}, {"idle", 0}, {"expired", 0}, {"all", n + 1}} {
			if r := h.do(h.key, "GET", "/v1/sessions?user_id=ada&status="+tc.status, nil).want(200); r.at("total") != tc.want {
				t.Errorf("%s: total %v, want %v", tc.status, r.at("total"), tc.want)
			}
		}
		if r := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "except_session_id": created[0]}).want(200); r.at("revoked") != float64(n-1) {
			t.Errorf("revoke: %s", r.Raw)
		}
	})
}

func TestListNewestFirst(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		var want []string
		for range 5 {
			time.Sleep(time.Second)
			want = append([]string{h.login("ada").str("session.session_id")}, want...)
		}
		if diff := cmp.Diff(want, h.walk(url.Values{"user_id": {"ada"}, "limit": {"2"}})); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRevokeExcept(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		var tokens, sids []string
		for range 4 {
			c := h.login("ada")
			tokens, sids = append(tokens, c.str("session_token")), append(sids, c.str("session.session_id"))
		}
		eve := h.login("eve")
		revoke := func(body m) float64 {
			t.Helper()
			return h.do(h.key, "POST", "/v1/sessions/revoke", body).want(200).at("revoked").(float64)
		}
		if got := revoke(m{"user_id": "ada", "except_session_id": sids[1]}); got != 3 {
			t.Errorf("revoked %v, want 3", got)
		}
		h.verify(tokens[1]).want(204)
		h.verify(tokens[0]).wantRefused("revoked")
		// A session that is revoked, or another user's, is spared nothing.
		if got := revoke(m{"user_id": "ada", "except_session_id": sids[0]}); got != 1 {
			t.Errorf("revoked %v, want 1", got)
		}
		for _, token := range tokens {
			h.verify(token).wantRefused("revoked")
		}
		// The newest alone is the whole truth: a node that reads only that holds
		// the same.
		time.Sleep(time.Second)
		twin := h.twin("n2")
		for _, token := range tokens {
			twin.verify(token).wantRefused("revoked")
		}
		twin.verify(eve.str("session_token")).want(204)
		last := h.login("ada")
		if got := revoke(m{"user_id": "ada", "except_session_id": eve.str("session.session_id")}); got != 1 {
			t.Errorf("revoked %v, want 1", got)
		}
		h.verify(last.str("session_token")).wantRefused("revoked")
		h.verify(eve.str("session_token")).want(204)
		e, err := h.home.Last(t.Context(), (&events.RevokeAll{App: "acme", User: "ada"}).Subject("eu").String())
		if err != nil || strings.Contains(string(e.Payload), "except") {
			t.Errorf("spares another user's session: %s, %v", e.Payload, err)
		}
		// Nobody there: it is written all the same, for a log-in on its way.
		before := h.stored()
		if got := revoke(m{"user_id": "nobody"}); got != 0 || h.stored() != before+1 {
			t.Errorf("revoked %v with %d events", got, h.stored()-before)
		}
		if got := revoke(m{"all": true}); got != 1 {
			t.Errorf("revoked %v, want 1", got)
		}
		h.verify(eve.str("session_token")).wantRefused("revoked")
		h.verify(h.login("ada").str("session_token")).want(204)
	})
}

// TestRevokeUserOnTwoNodes lets two nodes write the same subject at once.
func TestRevokeUserOnTwoNodes(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		twin, link := h.twinLink("n2")
		slow(link)
		slow(&h.home.MemoryLink)
		for range 5 {
			token := h.login("ada").str("session_token")
			done := make(chan *reply, 2)
			for _, x := range []*harness{h, twin} {
				go func() { done <- x.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}) }()
			}
			for range 2 {
				(<-done).want(200)
			}
			h.verify(token).wantRefused("revoked")
		}
		h.wantNoOverwrites()
	})
}

// patchy is an archive that misses states, as one whose sourcing was down.
type patchy struct {
	events.Archive
	misses func(events.Archived) bool
}

func (p *patchy) History(ctx context.Context, filters []string, fn func(events.Archived) bool) error {
	return p.Archive.History(ctx, filters, func(a events.Archived) bool { return p.misses(a) || fn(a) })
}

func TestHistory(t *testing.T) {
	bubbleWithGaps(t, func(t *testing.T, h *harness, archive *patchy) {
		c := h.login("ada")
		sid, token := c.str("session.session_id"), c.str("session_token")
		path := "/v1/sessions/" + sid
		h.do(h.key, "PATCH", path, m{"metadata": m{"a": 1}}).want(200)
		gap := h.do(h.key, "PATCH", path, m{"session_duration_minutes": 100}).want(200).str("revision")
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token}).want(200)
		spared := h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "except_session_id": sid}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "eve"}).want(200)
		h.do(h.key, "DELETE", path+"?reason=done", nil).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "reason": "all of them"}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"all": true}).want(200)
		late := h.login("ada").str("session.session_id")

		types := func(r *reply) (all []string) {
			for _, e := range r.at("events").([]any) {
				ev := e.(m)
				all = append(all, fmt.Sprint(ev["type"], " ", ev["reason"]))
				if ev["revision"] == spared.str("revision") {
					t.Error("a revocation that spared the session is in its history")
				}
				if by, _ := ev["by"].(string); by == "" {
					t.Errorf("nobody did %v", ev)
				}
			}
			return all
		}
		want := []string{
			"session.created <nil>", "session.changed <nil>", "session.extended <nil>", "session.rotated <nil>",
			"session.revoked done", "user.revoked all of them", "app.revoked <nil>",
		}
		r := h.do(h.key, "GET", path+"/events", nil).want(200)
		if diff := cmp.Diff(want, types(r)); diff != "" {
			t.Error(diff)
		}
		if got := types(h.do(h.key, "GET", "/v1/sessions/"+late+"/events", nil).want(200)); len(got) != 1 {
			t.Errorf("a later session has %v", got)
		}

		archive.misses = func(a events.Archived) bool {
			return events.Position{Stream: "eu", Seq: a.Origin}.String() == gap
		}
		r = h.do(h.key, "GET", path+"/events", nil).want(200)
		gaps := 0
		for _, e := range r.at("events").([]any) {
			if ev := e.(m); ev["gap_after"] != nil {
				gaps++
				if ev["gap_after"] != gap || ev["type"] != "session.rotated" {
					t.Errorf("gap: %v, want one after %s", ev, gap)
				}
			}
		}
		if gaps != 1 {
			t.Errorf("%d gaps: %s", gaps, r.Raw)
		}
		archive.misses = func(events.Archived) bool { return false }

		// A forged state tells no story; a forged revocation took away, and says so.
		subject := events.SessionSubject("eu", "acme", "ada", mustSID(t, late), events.KindState)
		for _, k := range []events.Kind{events.KindState, events.KindRevoke} {
			subject.Kind = k
			if _, err := h.home.Inject(events.Message{Subject: subject.String(), Payload: []byte(`{"v":1}`)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		r = h.do(h.key, "GET", "/v1/sessions/"+late+"/events", nil).want(200)
		found := false
		for _, e := range r.at("events").([]any) {
			found = found || e.(m)["type"] == "session.revoked" && e.(m)["reason"] == "unverified"
		}
		if !found {
			t.Errorf("forged revocation: %s", r.Raw)
		}
	})
}

func TestHistoryOutlivesTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada", "session_duration_minutes": 1, "absolute_lifetime_minutes": 1}).want(201)
		path := "/v1/sessions/" + c.str("session.session_id")
		time.Sleep(time.Hour)
		h.do(h.key, "GET", path, nil).wantEnded("unknown") // forgotten
		r := h.do(h.key, "GET", path+"/events", nil).want(200)
		if all := r.at("events").([]any); len(all) != 2 || all[0].(m)["type"] != "session.created" || all[1].(m)["type"] != "session.expired" {
			t.Errorf("history: %s", r.Raw)
		}
		other := h.newApp("other", nil)
		h.do(other, "GET", path+"/events", nil).wantEnded("unknown")
	})
}

func mustSID(t *testing.T, text string) events.SID {
	t.Helper()
	sid, err := events.ParseSID(text)
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

// bubbleWithGaps is bubble with an archive that can miss entries.
func bubbleWithGaps(t *testing.T, test func(t *testing.T, h *harness, archive *patchy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		archive := &patchy{misses: func(events.Archived) bool { return false }}
		test(t, newHarness(t, func(c *node.Config) {
			archive.Archive, c.Archive = c.Archive, archive
		}), archive)
	})
}

// Of sessions whose home is out of reach a node cannot say that they are active.
// It leaves them out and says so.
func TestListWithRegionOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		link := us.log.Link()
		b, _ := h.another(func(c *node.Config) {
			c.Open = func(context.Context, *events.Region) (events.Log, error) { return link, nil }
		})
		b.start()
		abroad, here := us.login("ada"), h.login("ada")
		time.Sleep(3 * time.Second)
		list := func(status string, want int, incomplete ...string) {
			t.Helper()
			r := b.do(b.key, "GET", "/v1/sessions?user_id=ada&status="+status, nil).want(200)
			missing := []string{}
			if all, ok := r.at("incomplete").([]any); ok {
				for _, x := range all {
					missing = append(missing, x.(string))
				}
			}
			if r.at("total") != float64(want) || !cmp.Equal(missing, append([]string{}, incomplete...)) {
				t.Errorf("%s: %s\nwant %d, without %v", status, r.Raw, want, incomplete)
			}
		}
		list("active", 2)
		link.Cut()
		us.do(us.key, "POST", "/v1/sessions/revoke", m{"session_token": abroad.str("session_token")}).want(200)
		time.Sleep(20 * time.Second)
		list("active", 1, "us")
		list("all", 1, "us")
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": here.str("session_token")}).want(200)
		synctest.Wait()
		list("active", 0, "us")
		link.Heal()
		time.Sleep(3 * time.Second)
		list("active", 0)
		list("revoked", 2)

		never, _ := h.another(func(c *node.Config) { c.Name, c.Open = "n3", unreachable })
		never.start()
		time.Sleep(3 * time.Second)
		b = never
		list("revoked", 1, "us")
	})
}
