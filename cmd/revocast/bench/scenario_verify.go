package bench

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
)

// credentialCount is how many credentials take turns in a comparison, drawn from
// all sessions: far more than a processor's caches hold of what belongs to them.
const credentialCount = 50_000

// verifyTarget returns the node under load of the requests.
func (r *runner) verifyTarget(ctx context.Context, name string, requests []Request) (*Target, error) {
	t := &Target{Name: name, Requests: requests}
	if r.Addr != "" {
		t.Network, t.Addr = r.Network, r.Addr
		if r.PID != 0 {
			t.Server = []int{r.PID}
		}
		return t, nil
	}
	s, err := r.start(ctx)
	if err != nil {
		return nil, err
	}
	t.Network, t.Addr, t.Server = "tcp", s.listen, []int{s.node.pid()}
	return t, nil
}

// tokens returns tokens of sessions drawn at random.
func (r *runner) tokens(ctx context.Context) (all []string, err error) {
	if r.Addr != "" {
		for _, t := range r.Tokens {
			if !strings.Contains(t, ".") {
				all = append(all, t)
			}
		}
		return all, nil
	}
	s, err := r.start(ctx)
	if err != nil {
		return nil, err
	}
	for range min(credentialCount, s.sessions) {
		all = append(all, token(s.log.Number(), s.anySession()).Reveal())
	}
	return all, nil
}

// held measures the target beside a bare handler that gives the same answer, and
// notes what both came to under the scenario's name.
func (r *runner) held(ctx context.Context, scenario, what string, targets ...*Target) (*Comparison, error) {
	bare, process, err := startBare(ctx, r.Program, targets[0])
	defer process.kill()
	if err != nil {
		return nil, err
	}
	c, err := compare(ctx, scenario, r.Rounds, r.load(), append([]*Target{bare}, targets...))
	if err != nil {
		return nil, err
	}
	r.report.Comparisons = append(r.report.Comparisons, c)
	r.report.ratio(scenario+"/rps", what+", requests a second to those of a bare handler", c.against(1, rps))
	r.report.ratio(scenario+"/cpu", what+", CPU of a request to that of a bare handler", c.against(1, cpu))
	return c, nil
}

// getting returns verifies of the credentials by GET.
func getting(credentials []string) (all []Request) {
	for _, c := range credentials {
		all = append(all, Request{getVerify("/v1/verify", c), 204})
	}
	return all
}

func (r *runner) verifyGet(ctx context.Context) error {
	tokens, err := r.tokens(ctx)
	if err != nil || len(tokens) == 0 {
		return r.without("verify", "tokens", err)
	}
	t, err := r.verifyTarget(ctx, "verify", getting(tokens))
	if err == nil {
		_, err = r.held(ctx, "verify", "verify by token, GET", t)
	}
	return err
}

// without notes that a scenario lacks credentials of a kind.
func (r *runner) without(scenario, kind string, err error) error {
	if err == nil {
		r.report.skip(scenario, "there are no %s", kind)
	}
	return err
}

func (r *runner) verifyPost(ctx context.Context) error {
	tokens, err := r.tokens(ctx)
	if err != nil || len(tokens) == 0 {
		return r.without("post", "tokens", err)
	}
	var requests []Request
	for _, t := range tokens {
		requests = append(requests, Request{postJSON("/v1/verify", "", map[string]string{"session_token": t}), 204})
	}
	t, err := r.verifyTarget(ctx, "verify POST", requests)
	if err == nil {
		_, err = r.held(ctx, "post", "verify by token, POST of JSON", t)
	}
	return err
}

// jwtCount is how many JWTs take turns: a node keeps the newest signatures that
// it found good, so all of them are reused.
const jwtCount = 1000

func (r *runner) verifyJWT(ctx context.Context) error {
	jwts, err := r.jwts(ctx)
	if err != nil || len(jwts) == 0 {
		return r.without("jwt", "JWTs", err)
	}
	t, err := r.verifyTarget(ctx, "verify JWT", getting(jwts))
	if err == nil {
		_, err = r.held(ctx, "jwt", "verify by a JWT that was seen before, GET", t)
	}
	return err
}

// jwts returns JWTs of sessions drawn at random.
func (r *runner) jwts(ctx context.Context) (all []string, err error) {
	if r.Addr != "" {
		for _, t := range r.Tokens {
			if strings.Contains(t, ".") {
				all = append(all, t)
			}
		}
		return all, nil
	}
	s, err := r.start(ctx)
	if err != nil {
		return nil, err
	}
	for range min(jwtCount, s.sessions) {
		var out struct {
			JWT string `json:"session_jwt"`
		}
		body := map[string]string{"session_token": token(s.log.Number(), s.anySession()).Reveal()}
		if err := s.call(ctx, "POST", "/v1/sessions/authenticate", s.access.APIKey, body, &out); err != nil {
			return nil, fmt.Errorf("mint: %w", err)
		}
		all = append(all, out.JWT)
	}
	return all, nil
}

// garbageCount is how many garbage tokens take turns: a flood of one sender.
const garbageCount = 1000

// garbage measures good tokens alone, the same with as many unknown tokens mixed
// in, and unknown ones alone. The node has been shown each of them before: the
// first time it makes sure that it is not behind, which takes a heartbeat.
func (r *runner) garbage(ctx context.Context) error {
	tokens, err := r.tokens(ctx)
	if err != nil || len(tokens) == 0 {
		return r.without("garbage", "tokens", err)
	}
	key, ok := events.Token(tokens[0]).Key()
	if !ok {
		return r.without("garbage", "tokens of Revocast", nil)
	}
	good := getting(tokens)
	var mixed, bad []Request
	for range garbageCount {
		bad = append(bad, Request{getVerify("/v1/verify", events.NewToken(key.Stream()).Reveal()), 401})
	}
	for i, g := range good {
		mixed = append(mixed, g, bad[i%len(bad)])
	}
	var targets []*Target
	for _, kind := range []struct {
		name     string
		requests []Request
	}{{"good", good}, {"half garbage", mixed}, {"garbage", bad}} {
		t, err := r.verifyTarget(ctx, kind.name, kind.requests)
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	if err := showAll(ctx, targets[2]); err != nil {
		return err
	}
	c, err := r.held(ctx, "garbage", "verify of good tokens", targets...)
	if err != nil {
		return err
	}
	r.report.ratio("garbage/half", "verify with half garbage, requests a second to those without", ratio(c.Targets[2], c.Targets[1], c.Targets[0], rps))
	r.report.ratio("garbage/reject", "rejecting garbage, CPU to that of accepting", ratio(c.Targets[3], c.Targets[1], c.Targets[0], cpu))
	return nil
}

// showAll sends each request of the target until it was answered as it should
// be, many of them at a time.
func showAll(ctx context.Context, t *Target) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(200)
	for _, r := range t.Requests {
		g.Go(func() error {
			w, err := t.connect()
			if err != nil {
				return err
			}
			defer w.close()
			return until(ctx, startTimeout, func() error {
				status, err := w.do(r.Bytes)
				if err == nil && status != r.Want { // 503: so many wait that this one is not to be kept waiting
					err = fmt.Errorf("%s: status %d, want %d", t.Name, status, r.Want)
				}
				return err
			})
		})
	}
	return g.Wait()
}
