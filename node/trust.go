package node

import (
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// A node that CONFIG is out of reach of goes on with the settings it has. Nobody
// else can tell whether such a node is there, so there is an end to it: what a
// setting permits at the cost of a revocation is permitted only by one that was in
// force settingsLife ago or later. Who has taken the permission back may rely on
// that after settingsLife and settingsSlack, for clocks that differ or drift.
const (
	settingsLife  = 24 * time.Hour
	settingsSlack = 5 * time.Minute
)

// pastTrust reports whether this node's settings may be older than settingsLife.
func (n *Node) pastTrust() bool {
	age, known := n.settings.lease.staleness(n.conf.Clock.Boot())
	return !n.conf.Solo && (!known || age >= settingsLife)
}

// mayServe reports whether some node may answer from what it knew before it was
// cut off: the app wants that, or did until lately, or this node cannot know.
func (n *Node) mayServe(id string) bool {
	if n.conf.Solo {
		return false
	}
	app, ok := n.app(id)
	return !ok || n.settings.fenced() != nil || app.Settings.WhenStale == whenStaleServe ||
		app.ServedUntil != 0 && n.wall() < app.ServedUntil+(settingsLife+settingsSlack).Milliseconds()
}

// lastMinted returns the latest time that a node which holds a lease on the stream
// may take it to be now, and so mint for: each clock agrees with the log's to
// maxClockSkew, or did at its node's last heartbeat and was set by less since.
func (n *Node) lastMinted(s *stream) time.Time {
	at := n.judged()
	if n.conf.Solo {
		return time.UnixMilli(at)
	}
	// The newest stamp of the log is no older than its heartbeat.
	if age, ok := s.lease.staleness(n.conf.Clock.Boot()); ok {
		at = max(at, n.agreed.Load()+age.Milliseconds())
	}
	return time.UnixMilli(at).Add(2 * maxClockSkew)
}

// jwtLives remembers until when JWTs of an app may be around that were minted
// under settings or a template that have changed since.
type jwtLives struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

// changed notes that the app's settings, or one of its templates, were changed at
// that time, after which some node may mint by what was before for so long.
func (l *jwtLives) changed(app string, at time.Time, unheard time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	if until := at.Add(unheard + maxJWTTTL*time.Second); until.After(l.until[app]) {
		l.until[app] = until
	}
}

// linger reports whether such JWTs may be around at the time.
func (l *jwtLives) linger(app string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until[app])
}

// noteLife takes notice of a change to what JWTs of an app live, unless it is
// known that nothing shorter came of it. It is called before the record is
// applied.
func (n *Node) noteLife(r events.Record) {
	snap, app := n.catalog.Snapshot(), ""
	switch e := r.Event.(type) {
	case *events.App:
		was, ok := snap.App(e.App)
		if e.Prev == 0 || ok && snap.Last(e) == e.Prev && was.Settings.JWTTTL <= e.Settings.JWTTTL {
			return
		}
		app = e.App
	case *events.Setting:
		if e.Prev == 0 || e.Type != templateType {
			return
		}
		app = e.App
	default:
		return
	}
	unheard := settingsLife + settingsSlack
	if n.conf.Solo {
		unheard = 0
	}
	n.jwtLives.changed(app, r.Time, unheard)
}

// jwtLife returns the longest life of a JWT of the app, templates included, that
// any node may mint.
func (n *Node) jwtLife(app *events.App) time.Duration {
	if n.settings.fenced() != nil || n.jwtLives.linger(app.App, n.conf.Clock.Wall()) {
		return maxJWTTTL * time.Second
	}
	longest := jwtLimit(&app.Settings, api.Template{})
	for _, held := range n.catalog.Snapshot().SettingsOf(app.App, templateType) {
		if t, err := readTemplate(held); err == nil { // one that cannot be read mints nothing
			longest = max(longest, jwtLimit(&app.Settings, t))
		}
	}
	return longest
}
