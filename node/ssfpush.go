package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// Events are pushed (RFC 8935) as to any endpoint: see delivery.go. What is about
// the stream itself is sent beside them.

// toldReceiver is a stream as its receiver is told of events.
type toldReceiver struct {
	n      *Node
	s      *ssfStream
	header string
	wants  map[string]bool
}

func openSSFStream(n *Node, snap *projection.Snapshot, held *events.Setting) (endpoint, error) {
	s, err := readSSFStream(held)
	if err != nil {
		return nil, err
	}
	header, err := n.conf.Keys.OpenVerified(snap.Sealed(held))
	if err != nil {
		return nil, fmt.Errorf("open ssf stream %s: %w", held.Name, err)
	}
	return &toldReceiver{n: n, s: s, header: string(header), wants: n.ssfFilter(s).types}, nil
}

func (t *toldReceiver) types() map[string]bool { return t.wants }

// requests returns a request for each SET. Whose API key is no longer in force is
// told nothing.
func (t *toldReceiver) requests(e *feedEvent) ([]*http.Request, error) {
	if t.s.Method != ssfPush || !t.n.ssfLive(t.n.catalog.Snapshot(), t.s) {
		return nil, nil
	}
	var all []*http.Request
	for _, set := range t.n.securityEvents(context.Background(), t.s, e) {
		r, err := t.request(&set)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (t *toldReceiver) request(set *securityEvent) (*http.Request, error) {
	text, err := t.n.signSET(set)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, t.s.URL, strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("push to ssf stream %s: the URL cannot be used", t.s.ID)
	}
	r.Header.Set("Content-Type", "application/"+signer.TypeSET)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "revocast")
	if t.header != "" {
		r.Header.Set("Authorization", t.header)
	}
	return r, nil
}

// setErrors are what a receiver may say of a SET that it does not take (RFC 8935
// section 2.4, SSF 1.0 section 8.1.4.1), and whether that is of the SET. It is not
// where the receiver lacks a key or does not know the transmitter: then it may take
// the same SET later.
var setErrors = map[string]bool{
	"invalid_request": true, "invalid_issuer": true, "invalid_audience": true, "access_denied": true, "invalid_state": true,
	"invalid_key": false, "authentication_failed": false,
}

// judge takes a 400 that names an error for what the receiver says of the SET. Any
// other 4xx says that there is no receiver, or that it wants another authorization:
// a SET is not refused by that.
func (t *toldReceiver) judge(a *outbound.Answer) attempted {
	out := judgeAnswer(a)
	if out.verdict != refused || a.Status == http.StatusRequestEntityTooLarge {
		return out
	}
	out.verdict = failedToSend
	var said struct {
		Err string `json:"err"`
	}
	if a.Status != http.StatusBadRequest || json.Unmarshal(a.Body, &said) != nil {
		return out
	}
	final, known := setErrors[said.Err]
	if known {
		out.reason = said.Err
	}
	if final {
		out.verdict = refused
	}
	return out
}

const (
	// controlsEvery is the time between two looks for what is to be told of streams.
	controlsEvery = time.Second
	// controlTries is how often that is tried, at growing distances, before it is given
	// up: the first eleven take 34 minutes.
	controlTries = 12
	// controlsAtOnce is how many are on their way at a time.
	controlsAtOnce = 32
)

// controlTry says when (Clock.Boot) an event about a stream is to be sent again.
type controlTry struct {
	tries int
	next  time.Duration
}

// tellSSFControls sends what is about pushed streams themselves, until ctx ends: that
// the receiver asked for a verification, and that the transmitter paused or disabled
// the stream. One node does, that which delivers the events of the first region.
func (n *Node) tellSSFControls(ctx context.Context) error {
	tries := map[string]controlTry{}
	for pause(ctx, controlsEvery) {
		if !n.deliveries.lease.holds(n.conf.Clock.Boot()) || !n.isFirstRegion() {
			clear(tries)
			continue
		}
		snap := n.catalog.Snapshot()
		var all errgroup.Group
		all.SetLimit(controlsAtOnce)
		for held := range snap.SettingsOfType(ssfStreamType) {
			s, err := readSSFStream(held)
			if err != nil || s.Method != ssfPush || !n.ssfAppLive(snap, s) {
				continue
			}
			n.noteHalt(ctx, snap, s)
			c := n.nextControl(snap, s)
			if c == nil {
				continue
			}
			key := fmt.Sprintf("%s %s %d %d", s.App, s.ID, s.Epoch, c.N)
			try := tries[key]
			if n.conf.Clock.Boot() < try.next {
				continue
			}
			try.tries++
			try.next = n.conf.Clock.Boot() + (&attempted{}).pause(try.tries)
			if tries[key] = try; try.tries == controlTries {
				delete(tries, key)
			}
			all.Go(func() error { n.pushControl(ctx, snap, held, c, try.tries == controlTries); return nil })
		}
		_ = all.Wait()
		if len(tries) > maxAcks*maxSSFControls { // of streams that are no more
			clear(tries)
		}
	}
	return nil
}

// isFirstRegion reports whether of all regions this node's has the lowest number.
func (n *Node) isFirstRegion() bool {
	for r := range n.catalog.Snapshot().Regions() {
		return r.Number >= n.home.number
	}
	return true
}

// nextControl returns the oldest event about the stream that is to be sent, nil for
// none. A verification waits while the stream is not enabled.
func (n *Node) nextControl(snap *projection.Snapshot, s *ssfStream) *ssfControl {
	p, err := n.ssfProgress(snap, s)
	if err != nil {
		return nil
	}
	status, _ := n.ssfStatus(snap, s)
	for i := range s.Controls {
		c := &s.Controls[i]
		if c.N > p.Control && (c.Status != "" || status == ssfEnabled) && n.ssfKeyLive(snap, s) {
			return c
		}
	}
	return nil
}

// pushControl sends the event once, and notes that it is settled if the receiver took
// it, or if it is the last try.
func (n *Node) pushControl(ctx context.Context, snap *projection.Snapshot, held *events.Setting, c *ssfControl, last bool) {
	to, err := openSSFStream(n, snap, held)
	if err != nil {
		return
	}
	t := to.(*toldReceiver)
	set := n.controlSET(t.s, c)
	r, err := t.request(&set)
	if err != nil {
		n.conf.Log.Error("an event about a stream cannot be written", "app", t.s.App, "error", err)
		return
	}
	out := n.sendOne(ctx, t, r, n.deliveries.left)
	if out.verdict == unsaid || out.verdict != taken && out.verdict != refused && !last {
		return
	}
	p, err := n.ssfProgress(n.catalog.Snapshot(), t.s)
	if err != nil {
		return
	}
	if p.Control = max(p.Control, c.N); out.verdict == refused {
		p.fail(api.SSFSETFault{JTI: set.jti, Err: out.reason, At: date(n.wall())})
	}
	if err := n.saveSSFProgress(ctx, t.s, p); err != nil && ctx.Err() == nil {
		n.conf.Log.Warn("it cannot be noted that an event about a stream was sent; it is sent again", "app", t.s.App, "error", err)
	}
}

// noteHalt has the receiver told that the transmitter paused or disabled the stream,
// once.
func (n *Node) noteHalt(ctx context.Context, snap *projection.Snapshot, s *ssfStream) {
	status, reason := n.ssfStatus(snap, s)
	if s.Status != ssfEnabled || status == ssfEnabled || s.Halted == s.Delivery.Turn+1 {
		return
	}
	c := &caller{app: s.App, scopes: []string{api.ScopeAdmin}, keyID: n.conf.Name}
	_, err := n.editSSFStream(ctx, c, s.ID, func(now *ssfStream, header []byte) ([]byte, error) {
		if now.Epoch != s.Epoch || now.Delivery.Turn != s.Delivery.Turn || now.Halted == s.Delivery.Turn+1 {
			return nil, errUnchanged
		}
		now.Halted = now.Delivery.Turn + 1
		now.add(ssfControl{At: n.wall(), Status: status, Reason: reason})
		return header, nil
	})
	if err != nil && !errors.Is(err, errUnchanged) && n.refusals.first("ssf halt", n.conf.Clock.Boot()) {
		n.conf.Log.Warn("a receiver cannot be told that its stream is paused; tried again", "app", s.App, "error", err)
	}
}

// ssfStatus returns the state of the stream: that which the receiver set, or if the
// transmitter had to pause or disable it, that, in any region.
func (n *Node) ssfStatus(snap *projection.Snapshot, s *ssfStream) (status, reason string) {
	if s.Status != ssfEnabled || s.Method != ssfPush {
		return s.Status, s.Reason
	}
	if status, reason = worstOf(n.ssfDelivery(snap, s)); status == ssfEnabled {
		return status, s.Reason
	}
	return status, "the receiver did not take what was sent: " + reason
}

// ssfDelivery returns how pushing fares, by region.
func (n *Node) ssfDelivery(snap *projection.Snapshot, s *ssfStream) []api.Delivery {
	return n.deliveryStatus(snap, endpointID{s.App, ssfStreamType, s.ID}, &s.Delivery)
}

// place returns the revision up to which the receiver has been told, whichever way.
func (n *Node) ssfPlace(snap *projection.Snapshot, s *ssfStream) (events.Revision, error) {
	if s.Method == ssfPoll {
		p, err := n.ssfProgress(snap, s)
		if err != nil {
			return nil, err
		}
		return events.ParseRevision(p.Revision)
	}
	var at events.Revision
	for _, d := range n.ssfDelivery(snap, s) {
		if p, err := events.ParsePosition(d.Revision); err == nil {
			at = append(at, p)
		}
	}
	slices.SortFunc(at, func(a, b events.Position) int { return strings.Compare(a.Stream, b.Stream) })
	return at, nil
}

// beginAt has the stream, whichever way it is delivered, go on from there: what was
// noted of it before counts no more. What the log took before the time born (unix ms)
// is not to be told even if the log went backwards; 0: there is no such time.
func (s *ssfStream) beginAt(n *Node, snap *projection.Snapshot, at events.Revision, born int64) {
	s.Since, s.Epoch = at.String(), max(n.wall(), s.Epoch+1)
	s.Controls, s.Halted = nil, 0
	s.Delivery = n.newDelivery(snap)
	s.Delivery.BornAt = born
	for _, p := range at {
		s.Delivery.Start[p.Stream] = p.String()
	}
	s.Delivery.Off = s.off()
}

// off reports whether nothing is to be pushed.
func (s *ssfStream) off() bool { return s.Method != ssfPush || s.Status != ssfEnabled }
