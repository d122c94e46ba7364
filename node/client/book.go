package client

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/signer"
)

const (
	// clockMargin is how far the clocks of two nodes may be apart: 30 s either way
	// from the log's.
	clockMargin = 60 * time.Second
	// nodeLease is for how long a node is allowed to go on minting before it knows of a
	// revocation: a lease of 30 s (see Lease of node.Config), and some more for its clock.
	nodeLease = 31 * time.Second
	// keepMargin is how much longer than a JWT lives its revocation is remembered.
	keepMargin = 5 * time.Minute
)

// sid is the id of a session; byte 0 is the number of its home stream.
type sid [16]byte

var b64 = base64.RawURLEncoding.Strict()

func parseSID(text string) (id sid, ok bool) {
	if len(text) != 22 {
		return sid{}, false
	}
	n, err := b64.Decode(id[:], []byte(text))
	return id, err == nil && n == len(id)
}

// userHash is how revocations name a user, as subjects of the log do.
func userHash(app, user string) string {
	sum := sha256.Sum256([]byte(app + "\x00" + user))
	return base64.RawURLEncoding.EncodeToString(sum[:])[:22]
}

// place names a mark: the sessions of a stream, of one user or (user "") of the app.
type place struct {
	stream byte
	user   string // userHash
}

// mark is a log-out of all sessions of a place that were there at a time.
type mark struct {
	revision string // up to where a node must have read to know of it
	at       int64  // when it was asked for, unix ms
	// known is when the last node of the sessions' home can have begun to know of it,
	// unix ms: no JWT that was made a lease later is of a session that it took. Of one
	// that was recorded elsewhere, because the home was out of reach, that is not known.
	known  int64
	except map[sid]bool
	until  time.Duration // on the boot clock: when nothing older than it is left
	// asked holds the sessions of which a node that knew of it said that they are good.
	asked map[sid]bool
}

// book is what the client knows of revocations, and until when it may be relied
// on. Nothing in it is taken back but by time: no resync empties it.
type book struct {
	clock clock
	app   string

	// outlived: a JWT was shown that lives longer than life.
	outlived atomic.Bool

	mu sync.RWMutex // guards all that follows
	// life is how long JWTs live of which every revocation is here: what the newest
	// catch-up said. longest is what any node ever said; 0: none has.
	life    time.Duration
	longest time.Duration
	leases  [256]time.Duration // by number of the stream: the boot time at which it ends
	revoked map[sid]time.Duration
	queue   []ended // of revoked, in the order in which they were put there
	marks   map[place][]mark
	told    map[byte]string // by stream: up to where a node must have read to know of all marks of it
	sweep   int             // the length of queue at which it is to be swept
	keys    map[string]bool // compromised
	shut    bool            // the app is suspended or deleted
	shutAt  string          // the position in CONFIG at which it became so
	// nodeWall was a node's clock when the boot clock showed nodeBoot. A JWT is
	// judged by the later of the clocks: if this machine's is set back, or slow, no
	// JWT lives on for longer than its revocation is remembered.
	nodeWall time.Time
	nodeBoot time.Duration
}

type ended struct {
	id    sid
	until time.Duration
}

// verdict is what the book says of a JWT.
type verdict int

const (
	good verdict = iota
	isRevoked
	isExpired
	isEarly    // its nbf lies ahead
	isShut     // the app
	isUntrue   // its key was stolen
	isDoubtful // made about when its user was logged out: only a node can tell
	isStale    // nothing can be said
)

// subject is what a verdict is about.
type subject struct {
	id   sid
	user string
	kid  string
	iat  int64     // unix ms
	nbf  time.Time // judged with a leeway, as clocks differ
	exp  time.Time // zero: neither is judged
}

// judgement is a verdict, and what comes with it.
type judgement struct {
	verdict   verdict
	staleness time.Duration
	revisions []string // isDoubtful: what a node must know to tell
}

// judge reads the clocks once, checks the lease of the session's home, and looks
// up, in this order and under one lock: what it says was true at the moment at
// which the clocks were read, however long the process stood still before or after.
func (b *book) judge(s *subject, lease time.Duration) judgement {
	b.mu.RLock()
	defer b.mu.RUnlock()
	boot, wall := b.clock.Boot(), b.clock.Wall()
	ends := b.leases[s.id[0]]
	v := b.look(s)
	now := b.now(boot, wall)
	switch {
	case v.verdict == isShut && boot >= ends && b.shutAt != "":
		// Nobody would have said that it is so no more.
		v = judgement{verdict: isDoubtful, revisions: []string{b.shutAt}}
	case v.verdict != good && v.verdict != isDoubtful:
	case !s.exp.IsZero() && !now.Before(s.exp):
		v.verdict = isExpired
	case !s.exp.IsZero() && now.Add(signer.MaxLeeway).Before(s.nbf):
		v.verdict = isEarly
	case v.verdict == isDoubtful:
	case boot >= ends:
		v.verdict = isStale
	case !s.exp.IsZero() && s.exp.Sub(time.UnixMilli(s.iat)) > b.life:
		// The app's setting was changed. Its revocation may be forgotten, or never
		// have been told, while it lives.
		v.verdict = isDoubtful
		b.outlived.Store(true)
	default:
		v.staleness = boot - (ends - lease)
	}
	return v
}

// now returns the later of this machine's clock and what is known of a node's.
func (b *book) now(boot time.Duration, wall time.Time) time.Time {
	if b.nodeWall.IsZero() {
		return wall
	}
	if node := b.nodeWall.Add(boot - b.nodeBoot); node.After(wall) {
		return node
	}
	return wall
}

// look says what is known against the session.
func (b *book) look(s *subject) judgement {
	switch {
	case b.keys[s.kid]:
		return judgement{verdict: isUntrue}
	case b.shut:
		return judgement{verdict: isShut}
	}
	if _, gone := b.revoked[s.id]; gone {
		return judgement{verdict: isRevoked}
	}
	j := judgement{}
	b.over(s, func(m *mark) {
		if s.iat < m.at-clockMargin.Milliseconds() {
			j.verdict = isRevoked
		} else if j.verdict != isRevoked {
			j.verdict, j.revisions = isDoubtful, append(j.revisions, m.revision)
		}
	})
	return j
}

// against says what is known against a session that a node found good, beyond what
// that node was known to know.
func (b *book) against(s *subject, known []string) judgement {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if _, gone := b.revoked[s.id]; gone {
		return judgement{verdict: isRevoked}
	}
	j := judgement{}
	switch {
	case !b.shut, covered(b.shutAt, known):
	case b.clock.Boot() < b.leases[s.id[0]], b.shutAt == "":
		return judgement{verdict: isShut}
	default:
		j.verdict, j.revisions = isDoubtful, []string{b.shutAt}
	}
	b.over(s, func(m *mark) {
		if !covered(m.revision, known) {
			j.verdict, j.revisions = isDoubtful, append(j.revisions, m.revision)
		}
	})
	return j
}

// over calls do with each mark that may have taken the session away, going by when
// it began or its JWT was made.
func (b *book) over(s *subject, do func(*mark)) {
	if len(b.marks) == 0 {
		return
	}
	for _, p := range [...]place{{s.id[0], ""}, {s.id[0], userHash(b.app, s.user)}} {
		for i := range b.marks[p] {
			m := &b.marks[p][i]
			if !m.except[s.id] && !m.asked[s.id] && s.iat <= m.known {
				do(m)
			}
		}
	}
}

// keep returns until when a revocation that came now is remembered.
func (b *book) keep() time.Duration {
	// Until a node has said how long: as long as any.
	return b.clock.Boot() + cmp.Or(b.longest, signer.DefaultMaxLife) + keepMargin
}

// revoke takes away one session.
func (b *book) revoke(id sid) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revokeLocked(id)
}

func (b *book) revokeLocked(id sid) {
	if b.revoked == nil {
		b.revoked = map[sid]time.Duration{}
	}
	if len(b.queue) >= b.sweep { // no heartbeat may ever come to have it done
		b.forgetLocked()
		b.sweep = 2*len(b.queue) + 1024
	}
	until := b.keep()
	b.revoked[id] = until
	b.queue = append(b.queue, ended{id, until})
}

// stolen reports whether the key is known to be.
func (b *book) stolen(kid string) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.keys[kid]
}

// newest returns what a node must know to know of all marks of the stream or, if that
// is not known, of all streams, and that the app was suspended.
func (b *book) newest(stream byte, known bool) []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var all []string
	for of, told := range b.told {
		if of == stream || !known {
			all = append(all, told)
		}
	}
	if b.shut && b.shutAt != "" {
		all = append(all, b.shutAt)
	}
	return all
}

// unknown is the known of a mark of which that is not known.
const unknown = math.MaxInt64

// addMark takes away the sessions of a place. One that takes all that an older one of
// the same log took replaces it.
func (b *book) addMark(p place, m mark) {
	if b.marks == nil {
		b.marks, b.told = map[place][]mark{}, map[byte]string{}
	}
	m.until = b.keep()
	if told, ok := b.told[p.stream]; ok {
		b.told[p.stream] = together([]string{told, m.revision})
	} else {
		b.told[p.stream] = m.revision
	}
	held := b.marks[p]
	for i := range held {
		if h := &held[i]; h.at == m.at && h.known >= m.known && within(h.except, m.except) && within(m.except, h.except) {
			h.until = m.until // told once more
			if h.revision != m.revision {
				// At another place of a log it may take sessions that it did not take at
				// the first, so who said that they are good must know both.
				h.revision, h.asked = together([]string{h.revision, m.revision}), nil
			}
			return
		}
	}
	held = slices.DeleteFunc(held, func(old mark) bool {
		return supersedes(m.revision, old.revision) && old.at <= m.at && old.known <= m.known && within(m.except, old.except)
	})
	b.marks[p] = append(held, m)
}

// within reports whether all of a is in b.
func within(a, b map[sid]bool) bool {
	for id := range a {
		if !b[id] {
			return false
		}
	}
	return true
}

// asked notes that a node which knew of the revisions found the session good.
func (b *book) asked(s *subject, revisions []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut && covered(b.shutAt, revisions) {
		b.shut = false // it was resumed since
	}
	for _, p := range [...]place{{s.id[0], ""}, {s.id[0], userHash(b.app, s.user)}} {
		for i := range b.marks[p] {
			if m := &b.marks[p][i]; covered(m.revision, revisions) {
				if m.asked == nil {
					m.asked = map[sid]bool{}
				}
				m.asked[s.id] = true
			}
		}
	}
}

// renew lets the lease of a stream end at that boot time, unless it ends later.
func (b *book) renew(stream byte, ends time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leases[stream] = max(b.leases[stream], ends)
}

// lapsed reports whether there has been no lease on the stream, nor a catch-up (which began
// at that boot time), for so long that a revocation may soon be forgotten that its home
// was never told of.
func (b *book) lapsed(stream byte, caught time.Duration) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.clock.Boot()-max(b.leases[stream], caught) > keepMargin/2
}

// heard notes a node's clock: the header Date of an answer that came just now,
// which is never ahead of it.
func (b *book) heard(date time.Time) {
	if date.IsZero() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodeWall, b.nodeBoot = date, b.clock.Boot()
}

// lives notes how long a JWT of the app can live. What is held is held for longer if
// that is longer than was known.
func (b *book) lives(seconds int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.livesLocked(seconds)
}

func (b *book) livesLocked(seconds int64) {
	before := cmp.Or(b.longest, signer.DefaultMaxLife)
	b.longest = max(b.longest, time.Duration(seconds)*time.Second)
	more := b.longest - before
	if more <= 0 {
		return
	}
	for i := range b.queue {
		b.queue[i].until += more
	}
	for id := range b.revoked {
		b.revoked[id] += more
	}
	for _, held := range b.marks {
		for i := range held {
			held[i].until += more
		}
	}
}

// forget drops what can no longer matter, because every JWT from before is over.
func (b *book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked()
}

func (b *book) forgetLocked() {
	now := b.clock.Boot()
	n := 0
	for ; n < len(b.queue) && b.queue[n].until <= now; n++ {
		if e := b.queue[n]; b.revoked[e.id] <= now {
			delete(b.revoked, e.id)
		}
	}
	b.queue = slices.Delete(b.queue, 0, n)
	for p, held := range b.marks {
		if held = slices.DeleteFunc(held, func(m mark) bool { return m.until <= now }); len(held) == 0 {
			delete(b.marks, p)
		} else {
			b.marks[p] = held
		}
	}
	if len(b.marks) == 0 {
		clear(b.told)
	}
}

// covered reports whether who knows one of these knows the revision.
func covered(revision string, known []string) bool {
	return slices.ContainsFunc(known, func(k string) bool {
		return k == revision || together([]string{revision, k}) == together([]string{k})
	})
}

// supersedes reports whether the one position comes after the other in the same
// log. Of anything but single positions, nothing is said.
func supersedes(revision, old string) bool {
	a, b := strings.LastIndexByte(revision, ':'), strings.LastIndexByte(old, ':')
	if a < 0 || b < 0 || revision[:a] != old[:b] || strings.Contains(revision, ",") {
		return false
	}
	x, errX := strconv.ParseUint(revision[a+1:], 10, 64)
	y, errY := strconv.ParseUint(old[b+1:], 10, 64)
	return errX == nil && errY == nil && x > y
}

// together joins revisions, so that who knows the result knows all of them.
func together(revisions []string) string {
	newest := map[string]string{} // by stream
	var order []string
	for _, r := range revisions {
		for one := range strings.SplitSeq(r, ",") {
			stream, _, _ := strings.Cut(one, ":")
			held, ok := newest[stream]
			if !ok {
				order = append(order, stream)
			}
			if !ok || later(one, held) {
				newest[stream] = one
			}
		}
	}
	slices.Sort(order)
	for i, stream := range order {
		order[i] = newest[stream]
	}
	return strings.Join(order, ",")
}

// later compares two positions of one stream, by generation and sequence.
func later(one, other string) bool {
	a, b := strings.Split(one, ":"), strings.Split(other, ":")
	if len(a) != 3 || len(b) != 3 {
		return len(a) == 3
	}
	for i := 1; i < 3; i++ {
		x, _ := strconv.ParseUint(a[i], 10, 64)
		y, _ := strconv.ParseUint(b[i], 10, 64)
		if x != y {
			return x > y
		}
	}
	return false
}

// readClaims reads the claims of a JWT that has been judged.
func readClaims(jwt string, v any) error {
	_, rest, _ := strings.Cut(jwt, ".")
	claims, _, ok := strings.Cut(rest, ".")
	data, err := b64.DecodeString(claims)
	if !ok || err != nil {
		return errNoJWT
	}
	return json.Unmarshal(data, v)
}
