package node

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// What bounds the questions that a node asks another system. Anybody can make up
// tokens, so beyond these it is 503, and never "not found".
const (
	lazyRate     = 100 // questions a second and app, on average
	lazyBurst    = 200
	lazyAtOnce   = 32   // questions on their way, of one app
	lazyWaiters  = 2000 // requests that wait for answers, of one app: a slow system must not be another app's trouble
	lazyAbsent   = 65_536
	lazyForget   = 10 * time.Second // how long it is remembered that the other system does not know a token
	lazyFailures = 5                // in a row, after which nobody is asked for lazyPause
	lazyPause    = 5 * time.Second
	// maxLazyToken is the longest token that is asked about: it becomes part of the
	// session's private part.
	maxLazyToken = 4 << 10
)

// lazyImports are the questions of this node.
type lazyImports struct {
	asking singleflight.Group // by key

	mu      sync.Mutex // guards the fields below
	sources map[string]*lazySource
	absent  *lru.Cache[events.SID, time.Duration] // until when (Clock.Boot) it is known that there is no such session
}

// lazySource is what may be asked of the system of one app.
type lazySource struct {
	turns   chan struct{} // holds one for each question on its way
	waiting atomic.Int64  // requests that wait for an answer

	mu       sync.Mutex // guards the fields below
	left     float64    // of the burst
	filled   time.Duration
	failures int
	shut     time.Duration // until when nobody is asked
	probing  bool          // one is asked, to see whether it answers again
}

// Outcomes of a question, as metrics have them.
const (
	lazyImported = "imported"
	lazyUnknown  = "absent"
	lazyEnded    = "ended"
	lazyFailed   = "failed"
	lazyRefused  = "refused"
)

// resolveOrAsk is resolveForeign for an app that has another system asked about
// what nobody here knows.
func (n *Node) resolveOrAsk(ctx context.Context, app, token string, key events.SID, want consistency) (answer, error) {
	snap := n.catalog.Snapshot()
	held := lazySetting(snap, app)
	if held == nil || len(token) > maxLazyToken || !utf8.ValidString(token) {
		return n.resolveForeign(ctx, key, want)
	}
	a, err := n.byToken(key)
	if err != nil || a.verdict != projection.Unknown {
		return n.resolveForeign(ctx, key, want)
	}
	if _, v := n.sessions().Lookup(key, n.judged()); v != projection.Unknown {
		return n.resolveForeign(ctx, key, want) // the session has another token by now
	}
	outcome, err := n.askSource(ctx, snap, held, token, key)
	if err != nil {
		return answer{}, err
	}
	if outcome == lazyEnded {
		return answer{Session: projection.Session{App: app}, verdict: projection.Revoked, staleness: a.staleness}, nil
	}
	return n.resolveForeign(ctx, key, want)
}

// askSource asks the other system about the token, together with all who show it
// now.
func (n *Node) askSource(ctx context.Context, snap *projection.Snapshot, held *events.Setting, token string, key events.SID) (outcome string, err error) {
	z := &n.lazy
	if z.isAbsent(key, n.conf.Clock.Boot()) {
		return lazyUnknown, nil
	}
	waiting := &z.source(held.App).waiting
	defer waiting.Add(-1)
	if waiting.Add(1) > lazyWaiters {
		n.metrics.lazyImports.WithLabelValues(lazyRefused).Inc()
		return "", sourceUnavailable("too many requests wait for it")
	}
	asked := z.asking.DoChan(key.String(), func() (_ any, err error) {
		outcome := lazyFailed
		defer func() {
			if p := recover(); p != nil { // it would end the process
				n.conf.Log.Error("panic in a lazy import", "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		outcome, err = n.askOnce(context.WithoutCancel(ctx), snap, held, token, key)
		n.metrics.lazyImports.WithLabelValues(outcome).Inc()
		if outcome == lazyUnknown || outcome == lazyEnded {
			z.noteAbsent(key, n.conf.Clock.Boot()+lazyForget)
		}
		return outcome, err
	})
	select {
	case r := <-asked:
		outcome, _ = r.Val.(string) // none after a panic
		return outcome, r.Err
	case <-ctx.Done():
		return "", sourceUnavailable("the request ended before it answered").because(ctx.Err())
	}
}

func sourceUnavailable(why string) *failure {
	return fail(api.ImportSourceUnavailable, "the system that the app's sessions come from cannot say whether the token is good: %s; ask again", why)
}

// askOnce asks, and imports what the answer describes.
func (n *Node) askOnce(ctx context.Context, snap *projection.Snapshot, held *events.Setting, token string, key events.SID) (outcome string, err error) {
	l, secret, err := n.readLazyImport(snap, held)
	if err != nil {
		return lazyFailed, err
	}
	app, ok := n.app(held.App)
	if !ok {
		return lazyFailed, appNotFound(held.App)
	}
	src := n.lazy.source(held.App)
	if why := src.admit(n.conf.Clock.Boot()); why != "" {
		return lazyRefused, sourceUnavailable(why)
	}
	timeout := lazyTimeout
	if l.TimeoutMS > 0 {
		timeout = time.Duration(l.TimeoutMS) * time.Millisecond
	}
	asking, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	d, err := n.described(asking, src, app, key.Stream(), l.URL, secret, token)
	switch {
	case err != nil:
		if n.refusals.first(api.ImportSourceUnavailable+" "+held.App, n.conf.Clock.Boot()) {
			n.conf.Log.Error("lazy import: the other system gave no answer that can be used", "app", held.App, "error", err)
		}
		return lazyFailed, sourceUnavailable("it did not answer, or not as it should").because(err)
	case d == nil:
		return lazyUnknown, nil
	}
	d.state.By = lazyImportType
	switch _, _, err = n.createForeign(ctx, app, d); {
	case isKind(err, api.ForeignEnded):
		return lazyEnded, nil
	case err != nil && !isKind(err, api.ForeignConflict): // of which the session that is there decides
		return lazyFailed, err
	}
	return lazyImported, nil
}

// described asks, as the source has admitted, and returns the session that the answer
// describes, nil for none.
func (n *Node) described(ctx context.Context, src *lazySource, app *events.App, stream uint8, url string, secret []byte, token string) (d *foreignDraft, err error) {
	ok := false // also when it ends in a panic: who is admitted must be answered
	defer func() { src.answered(ok, n.conf.Clock.Boot()) }()
	in, err := n.question(ctx, src, app.App, url, secret, token)
	if err == nil && in != nil {
		in.Token = token
		if d, err = n.foreignDraftOf(app, stream, in); isKind(err, api.ImportExpired) {
			d, err = nil, nil
		}
	}
	ok = err == nil
	return d, err
}

// isKind reports whether err is a failure of the kind.
func isKind(err error, kind string) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.kind == kind
}

// question asks the other system. Nil means that it does not know the token.
func (n *Node) question(ctx context.Context, src *lazySource, app, url string, secret []byte, token string) (*api.ImportSession, error) {
	select {
	case src.turns <- struct{}{}:
		defer func() { <-src.turns }()
	case <-ctx.Done():
		return nil, errors.New("as many questions as may be are on their way")
	}
	body, err := marshal(&api.LazyImportQuestion{Token: token, AppID: app})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL cannot be used")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "revocast")
	signWebhook(r.Header, secret, body, n.conf.Clock.Wall())
	a, err := n.conf.Outbound.Do(ctx, r, maxImportLine)
	if err != nil {
		return nil, err
	}
	switch a.Status {
	case http.StatusNotFound, http.StatusNoContent:
		return nil, nil
	case http.StatusOK:
	default:
		return nil, fmt.Errorf("it answered %d", a.Status)
	}
	in := new(api.ImportSession)
	if len(bytes.TrimSpace(a.Body)) == 0 {
		return nil, errors.New("it answered 200 without a body")
	}
	if err := decodeStrict(a.Body, in); err != nil {
		return nil, err
	}
	if in.Token != "" || in.TokenSHA256 != "" {
		return nil, errors.New("its answer names a token")
	}
	return in, nil
}

// signWebhook signs a request as Standard Webhooks 1.0 has it.
func signWebhook(h http.Header, secret, body []byte, now time.Time) {
	signMessage(h, "msg_"+rand.Text(), [][]byte{secret}, body, now)
}

// signMessage is signWebhook for a message of that id, with each of the secrets.
func signMessage(h http.Header, id string, secrets [][]byte, body []byte, now time.Time) {
	at := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
}

// source returns what may be asked of the app's system.
func (z *lazyImports) source(app string) *lazySource {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.sources == nil {
		z.sources = map[string]*lazySource{}
	}
	src, ok := z.sources[app]
	if !ok {
		src = &lazySource{turns: make(chan struct{}, lazyAtOnce), left: lazyBurst}
		z.sources[app] = src
	}
	return src
}

// isAbsent reports whether the other system said a moment ago that it does not know
// the token. Here there may be a session of it since; that is looked up first.
func (z *lazyImports) isAbsent(key events.SID, now time.Duration) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.absent == nil {
		return false
	}
	until, ok := z.absent.Get(key)
	return ok && now < until
}

func (z *lazyImports) noteAbsent(key events.SID, until time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.absent == nil {
		z.absent, _ = lru.New[events.SID, time.Duration](lazyAbsent) // fails only for a size below 1
	}
	z.absent.Add(key, until)
}

// admit says why nothing may be asked now, "" when it may.
func (s *lazySource) admit(now time.Duration) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures >= lazyFailures && (now < s.shut || s.probing) {
		return "it failed several times in a row and is asked again in some seconds"
	}
	s.left = min(lazyBurst, s.left+(now-s.filled).Seconds()*lazyRate)
	s.filled = now
	if s.left < 1 {
		return "more unknown tokens are shown than it may be asked about"
	}
	s.left--
	s.probing = s.failures >= lazyFailures
	return ""
}

// answered notes whether a question was answered.
func (s *lazySource) answered(ok bool, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probing = false
	if ok {
		s.failures = 0
		return
	}
	s.failures++
	s.shut = now + lazyPause
}
