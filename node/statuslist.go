package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// Token Status Lists (draft-ietf-oauth-status-list) are for who verifies JWTs without
// asking a node and without an SDK. The index of a session is the sequence of the
// event that created it: no two sessions of a stream have the same, and nothing has
// to be handed out or kept. A list is of one app and 2^20 sequences of one stream.
//
// It says INVALID of a session that is revoked and of which a JWT may still live.
// What was revoked before that is left out: no JWT of it is taken anywhere.

const (
	statusBlockBits = 20
	statusBlock     = 1 << statusBlockBits
	// statusTTL is for how long a verifier keeps a list, statusLife for how long it may
	// go by one when it gets no newer, statusFresh for how long a node hands out what it
	// has made. So a revocation is in every list that is read statusFresh after the node
	// has applied it, and reaches a verifier statusTTL later.
	statusTTL   = 15 * time.Second
	statusFresh = 5 * time.Second
	statusLife  = time.Minute
	// statusScans is the least time between two walks over all sessions of an app.
	statusScans = 30 * time.Second
	// maxStatusLists bounds what is handed out again; statusMakers how many lists are
	// made at a time.
	maxStatusLists = 256
	statusMakers   = 2

	statusListMedia = "application/" + signer.StatusListType
)

// statusLists are the lists of late, and what they are made from.
type statusLists struct {
	making chan struct{} // holds one for each list that is being made

	mu    sync.Mutex // guards the maps
	made  map[statusKey]*statusMade
	known map[statusStream]*statusKnown
}

type statusStream struct {
	app    string
	stream uint8
}

type statusKey struct {
	statusStream
	block uint64
}

// statusMade is a list as it is handed out. It never changes.
type statusMade struct {
	jwt   []byte
	kid   string
	state string // of the app
	at    time.Duration
}

// statusKnown is what is known of the revoked sessions of an app in a stream.
type statusKnown struct {
	mu sync.Mutex // guards what follows
	// revoked has the creation sequence of each, and when it was revoked, unix ms. What
	// is here stays until no JWT is left, although the log may go backwards meanwhile,
	// and lose the session.
	revoked map[uint64]int64
	whole   projection.AppRevoked
	asked   time.Duration // when that was so, 0: never
	scanned time.Duration
}

func newStatusLists() statusLists {
	return statusLists{
		making: make(chan struct{}, statusMakers), made: map[statusKey]*statusMade{}, known: map[statusStream]*statusKnown{},
	}
}

// statusURI returns where the list is that has the sequence, and the index in it.
func (n *Node) statusURI(app, region string, seq uint64) (uri string, index uint64) {
	return fmt.Sprintf("%s/v1/apps/%s/status/%s/%d", n.issuer, app, region, seq>>statusBlockBits), seq % statusBlock
}

// statusList answers GET /v1/apps/{app}/status/{region}/{block}.
func (n *Node) statusList(ctx context.Context, c *call) (int, any, error) {
	app, err := n.publicApp(c, c.r.PathValue("app"))
	if err != nil {
		return 0, nil, err
	}
	if err := statusQuery(c); err != nil {
		return 0, nil, err
	}
	if !n.hasStatusLists(app) {
		return 0, nil, fail(api.NotFound, "app %s has no status lists; its setting status_list turns them on", app.App)
	}
	s, block, err := n.statusPlace(c)
	if err != nil {
		return 0, nil, err
	}
	made, err := n.statusOf(ctx, app, s, block)
	if err != nil {
		return 0, nil, err
	}
	left := statusFresh - (n.conf.Clock.Boot() - made.at)
	c.h.Set("Content-Type", statusListMedia)
	c.h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", max(0, int(left.Seconds()))))
	return http.StatusOK, rawBody(made.jwt), nil
}

// hasStatusLists reports whether the app has lists: for as long as JWTs may name them,
// they are there, whatever the app wants by now.
func (n *Node) hasStatusLists(app *events.App) bool {
	return app.Settings.StatusList || n.wall() <= app.ChangedAt+(maxJWTTTL*time.Second+maxClockSkew).Milliseconds()
}

// statusQuery refuses what is asked for otherwise than as a list of now, signed as a
// JWT. Of the past nothing is kept (section 8.4).
func statusQuery(c *call) error {
	for name := range c.r.URL.Query() {
		if name == "time" {
			return fail(api.NotImplemented, "time: lists of the past are not kept")
		}
		return fail(api.InvalidArgument, "%s: no such parameter", name).with("field", name)
	}
	accept := strings.Join(c.r.Header.Values("Accept"), ",")
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil || params["q"] == "0" {
			continue
		}
		if media == statusListMedia || media == "application/*" || media == "*/*" {
			return nil
		}
	}
	if accept != "" {
		return fail(api.NotAcceptable, "Accept: want %s", statusListMedia)
	}
	return nil
}

// statusPlace returns the stream and the number of the list that the path names.
func (n *Node) statusPlace(c *call) (s *stream, block uint64, err error) {
	region, text := c.r.PathValue("region"), c.r.PathValue("block")
	if s = n.streamOf(region); s == nil || s == n.settings {
		for r := range n.catalog.Snapshot().Regions() {
			if r.Region == region {
				return nil, 0, &staleError{stream: region, reason: reasonStarting}
			}
		}
		return nil, 0, fail(api.NotFound, "there is no region %q", region)
	}
	if stale := s.fenced(); stale != nil {
		return nil, 0, stale
	}
	block, err = strconv.ParseUint(text, 10, 64-statusBlockBits)
	// One more than there is: a session may have been created where this node is not yet.
	if err != nil || strconv.FormatUint(block, 10) != text || block > s.applied.Load()>>statusBlockBits+1 {
		return nil, 0, fail(api.NotFound, "there is no status list %q of region %s", text, region)
	}
	return s, block, nil
}

// statusOf returns the list, made within statusFresh. The caller has looked at the
// lease of the stream.
func (n *Node) statusOf(ctx context.Context, app *events.App, s *stream, block uint64) (*statusMade, error) {
	key := statusKey{statusStream{app.App, s.number}, block}
	now := n.conf.Clock.Wall()
	k, err := n.signingKey(app, now)
	if err != nil {
		return nil, err
	}
	if made := n.statuses.get(key, k.ID, app.State, n.conf.Clock.Boot()); made != nil {
		return made, nil
	}
	select {
	case n.statuses.making <- struct{}{}:
		defer func() { <-n.statuses.making }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if made := n.statuses.get(key, k.ID, app.State, n.conf.Clock.Boot()); made != nil {
		return made, nil // by whoever was before
	}
	// The order of every verify: clock, lease, look-up.
	now = n.conf.Clock.Wall()
	if stale := s.fenced(); stale != nil {
		return nil, stale
	}
	list, at, err := n.makeStatus(app, s, block)
	if err != nil {
		return nil, err
	}
	uri, _ := n.statusURI(app.App, s.region, block<<statusBlockBits)
	claims, err := json.Marshal(&statusClaims{
		Issuer: n.issuerOf(app.App, signer.Profile(app.Settings.JWTProfile)), Subject: uri,
		IssuedAt: now.Unix(), Expires: now.Add(statusLife).Unix(), TTL: int64(statusTTL.Seconds()), List: list,
	})
	if err != nil {
		return nil, fmt.Errorf("encode status list: %w", err)
	}
	jwt, err := signer.SignStatusList(k, claims, now)
	if err != nil {
		return nil, err
	}
	made := &statusMade{jwt: []byte(jwt), kid: k.ID, state: app.State, at: at}
	n.statuses.put(key, made, n.conf.Clock.Boot())
	return made, nil
}

// statusClaims are those of section 5.1.
type statusClaims struct {
	Issuer   string             `json:"iss"`
	Subject  string             `json:"sub"`
	IssuedAt int64              `json:"iat"`
	Expires  int64              `json:"exp"`
	TTL      int64              `json:"ttl"`
	List     *signer.StatusList `json:"status_list"`
}

func (l *statusLists) get(key statusKey, kid, state string, now time.Duration) *statusMade {
	l.mu.Lock()
	defer l.mu.Unlock()
	made := l.made[key]
	if made == nil || made.kid != kid || made.state != state || now-made.at >= statusFresh {
		return nil
	}
	return made
}

func (l *statusLists) put(key statusKey, made *statusMade, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.made) >= maxStatusLists {
		for other, was := range l.made {
			if now-was.at >= statusFresh || len(l.made) >= maxStatusLists {
				delete(l.made, other)
			}
		}
	}
	l.made[key] = made
}

// of returns what is known of the app in the stream.
func (l *statusLists) of(key statusStream) *statusKnown {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.known[key]
	if k == nil {
		k = &statusKnown{revoked: map[uint64]int64{}}
		l.known[key] = k
	}
	return k
}

// makeStatus returns the list of a block of the stream, and when (Clock.Boot) it was
// so. Of a suspended app every
// session is suspended: a node lets none of them in.
func (n *Node) makeStatus(app *events.App, s *stream, block uint64) (list *signer.StatusList, at time.Duration, err error) {
	if app.State != events.AppActive {
		return signer.NewStatusList(statusBlock, 2, signer.StatusSuspended), n.conf.Clock.Boot(), nil
	}
	if !n.recallsAll(s) {
		return nil, 0, &staleError{stream: s.region, reason: reasonStarting}
	}
	k := n.statuses.of(statusStream{app.App, s.number})
	k.mu.Lock()
	defer k.mu.Unlock()
	n.learnStatus(k, app.App, s)
	list = signer.NewStatusList(statusBlock, 1, signer.StatusValid)
	from := block << statusBlockBits
	if k.whole.Below > from {
		list.SetBelow(int(min(k.whole.Below-from, statusBlock)), signer.StatusInvalid)
		for _, sid := range k.whole.Spared {
			held, v := n.sessions().Lookup(sid, n.judged())
			if v != projection.Unknown && v != projection.Revoked && held.CreatedSeq>>statusBlockBits == block {
				list.Set(int(held.CreatedSeq-from), signer.StatusValid)
			}
		}
	}
	for seq := range k.revoked {
		if seq>>statusBlockBits == block {
			list.Set(int(seq-from), signer.StatusInvalid)
		}
	}
	return list, k.asked, nil
}

// learnStatus looks at what was revoked, unless that was done within statusFresh for
// another list. k.mu is held.
func (n *Node) learnStatus(k *statusKnown, app string, s *stream) {
	now := n.conf.Clock.Boot()
	if k.asked != 0 && now-k.asked < statusFresh {
		return
	}
	since := n.recentFrom(app)
	for seq, at := range k.revoked {
		if at < since {
			delete(k.revoked, seq)
		}
	}
	sids, users := n.recentOf(app, s.number, since)
	for sid, at := range sids {
		// One that is gone ended by itself, with all its JWTs.
		if held, v := n.sessions().Lookup(sid, n.judged()); v == projection.Revoked && held.CreatedSeq != 0 {
			k.revoked[held.CreatedSeq] = at
		}
	}
	for hash, at := range users {
		for seq := range n.sessions().RevokedOf(s.number, app, hash) {
			k.revoked[seq] = max(k.revoked[seq], at)
		}
	}
	k.whole = n.sessions().AppRevoked(s.number, app)
	if n.sessions().PendingAll(s.number, app, "") {
		k.whole.ByTime = n.judged() // its home mints on until it is told
	}
	if k.whole.ByTime >= since && (k.scanned == 0 || now-k.scanned >= statusScans) {
		for held, v := range n.sessions().App(app, n.judged()) {
			if v == projection.Revoked && held.SID.Stream() == s.number {
				k.revoked[held.CreatedSeq] = max(k.revoked[held.CreatedSeq], k.whole.ByTime)
			}
		}
		k.scanned = now
	}
	k.asked = now
}

// keepStatuses notes what is revoked of a stream that is about to be read from its
// beginning: if the log has lost that a session was created, nothing else says where
// its status is.
func (n *Node) keepStatuses(number uint8) {
	now := n.judged()
	for app := range n.catalog.Snapshot().Apps() {
		if !n.hasStatusLists(app) {
			continue
		}
		k := n.statuses.of(statusStream{app.App, number})
		k.mu.Lock()
		for held, v := range n.sessions().App(app.App, now) {
			if v == projection.Revoked && held.SID.Stream() == number && held.CreatedSeq != 0 {
				k.revoked[held.CreatedSeq] = now
			}
		}
		k.mu.Unlock()
	}
}

// recentOf returns the sessions of the app in the stream, and the users by their
// hashes, that were revoked since, with the time of that (unix ms).
func (n *Node) recentOf(app string, stream uint8, since int64) (sids map[events.SID]int64, users map[string]int64) {
	sids, marks := n.recent.since(app, since)
	maps.DeleteFunc(sids, func(sid events.SID, _ int64) bool { return sid.Stream() != stream })
	users = map[string]int64{}
	for key, all := range marks {
		if key.number != stream || key.user == "" {
			continue
		}
		for _, m := range all {
			users[key.user] = max(users[key.user], m.logged)
		}
	}
	return sids, users
}

// recallsAll reports whether this node knows all that was revoked lately in the
// stream, also of before it began to follow it.
func (n *Node) recallsAll(s *stream) bool {
	n.recent.mu.Lock()
	defer n.recent.mu.Unlock()
	return n.recent.through[s]
}
