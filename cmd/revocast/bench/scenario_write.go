package bench

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/revocast/revocast/signer"
)

// create measures creates. Each is on disk before it is answered.
func (r *runner) create(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	var requests []Request
	for i := range 10_000 {
		body := map[string]any{"user_id": "new-" + strconv.Itoa(i), "session_duration_minutes": 60}
		requests = append(requests, Request{postJSON("/v1/sessions", s.access.APIKey, body), http.StatusCreated})
	}
	return r.alone(ctx, "create", "create", requests)
}

// alone measures the node under the requests, beside nothing.
func (r *runner) alone(ctx context.Context, scenario, what string, requests []Request) error {
	t, err := r.verifyTarget(ctx, scenario, requests)
	if err != nil {
		return err
	}
	t.Backend = []int{r.system.broker.pid()}
	c, err := compare(ctx, scenario, r.Rounds, r.load(), []*Target{t})
	if err != nil {
		return err
	}
	r.report.Comparisons = append(r.report.Comparisons, c)
	m := c.Targets[0]
	rate, _ := m.middle(rps) // every round has it
	for _, f := range []Figure{
		{ID: scenario + "/rate", What: what + ", a second", Value: rate, Unit: "/s"},
		{ID: scenario + "/p50", What: what + ", p50", Value: m.Latency.P50 / 1000, Unit: "ms"},
		{ID: scenario + "/p99", What: what + ", p99", Value: m.Latency.P99 / 1000, Unit: "ms"},
	} {
		f.Refused = m.trouble()
		r.report.Figures = append(r.report.Figures, f)
	}
	return nil
}

// mint measures what a fresh JWT costs beside the signature in it, on one
// thread, and then minting over HTTP, where a JWT is reused while it is young.
func (r *runner) mint(ctx context.Context) error {
	for _, alg := range []signer.Alg{signer.ES256, signer.EdDSA, signer.RS256} {
		x, each, err := mintRatio(alg, r.Rounds)
		if err != nil {
			return err
		}
		r.report.ratio("mint/"+string(alg), fmt.Sprintf("minting %s, CPU to that of the bare signature", alg), x)
		r.report.figure("mint/"+string(alg)+"/us", fmt.Sprintf("minting %s, CPU", alg), micros(each), "us")
	}
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	var requests []Request
	for range min(credentialCount, s.sessions) {
		sid, _ := token(s.log.Number(), s.anySession()).Key() // it has the form of one
		requests = append(requests, Request{postJSON("/v1/sessions/"+sid.String()+"/tokens", s.access.APIKey, struct{}{}), http.StatusOK})
	}
	return r.alone(ctx, "mint", "minting over HTTP", requests)
}

// mintRatio measures both in turns by the thread's CPU time, and returns the
// ratio and what a mint took.
func mintRatio(alg signer.Alg, rounds int) (Ratio, time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	key, err := signer.GenerateKey(alg)
	if err != nil {
		return Ratio{}, 0, err
	}
	now := time.Now()
	claims := signer.Claims{
		Issuer: "https://sessions.example/v1/apps/app", App: "app", Subject: "user-1234567", SessionID: "AoQ2Zy9Lx1mVwQ2Zy9Lx1m",
		IssuedAt: now, Expires: now.Add(5 * time.Minute), SessionExpires: now.Add(time.Hour), AuthTime: now,
	}
	sample, err := signer.Mint(key, signer.Native, claims)
	if err != nil {
		return Ratio{}, 0, err
	}
	input, options := []byte(sample), crypto.SignerOpts(crypto.Hash(0))
	if alg != signer.EdDSA { // which signs the message itself
		sum := sha256.Sum256(input)
		input, options = sum[:], crypto.SHA256
	}
	count := 2000
	if alg == signer.RS256 {
		count = 50
	}
	minted, bare := &Measured{Name: "mint"}, &Measured{Name: "signature"}
	var each time.Duration
	for range max(rounds, 3) {
		begun := threadTime()
		for range count {
			if _, err := key.Signer.Sign(rand.Reader, input, options); err != nil {
				return Ratio{}, 0, err
			}
		}
		half := threadTime()
		for range count {
			if _, err := signer.Mint(key, signer.Native, claims); err != nil {
				return Ratio{}, 0, err
			}
		}
		each = (threadTime() - half) / time.Duration(count)
		bare.Rounds = append(bare.Rounds, Round{CPU: micros(half-begun) / float64(count)})
		minted.Rounds = append(minted.Rounds, Round{CPU: micros(each)})
	}
	return ratio(minted, bare, bare, cpu), each, nil
}

// revoke measures, on three nodes of one log that verify at half of what the
// machine can, how long after a revocation was accepted (and after it was asked
// for) the last of them denies.
func (r *runner) revoke(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	if s.revoked() == 0 {
		r.report.skip("revoke", "there are too few sessions")
		return nil
	}
	addrs := []string{s.listen}
	for _, name := range []string{"n2", "n3"} {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		n, err := s.newNode(name, addr)
		defer n.kill()
		if err != nil {
			return err
		}
		if err := s.awaitSessions(ctx, addr); err != nil {
			return err
		}
		addrs = append(addrs, addr)
	}
	tokens, err := r.tokens(ctx)
	if err != nil {
		return err
	}
	var lag, whole Histogram
	whileLoaded := func() error {
		end := time.Now().Add(time.Duration(r.Rounds) * r.Duration)
		for i := 0; i < s.revoked() && time.Now().Before(end); i++ {
			if err := s.revokeOnce(addrs, i, &lag, &whole); err != nil {
				return err
			}
		}
		return nil
	}
	trouble, err := r.loaded(ctx, addrs, getting(tokens), whileLoaded)
	if err != nil {
		return err
	}
	r.noteLag("accepted", len(addrs), &lag, trouble)
	r.noteLag("asked", len(addrs), &whole, trouble)
	return nil
}

// loaded puts half of the load that the first of the nodes can bear on all of
// them together while during runs, and returns what was not answered as it
// should be.
func (r *runner) loaded(ctx context.Context, addrs []string, requests []Request, during func() error) (trouble string, err error) {
	target := func(addr string) *Target {
		return &Target{Name: addr, Network: "tcp", Addr: addr, Requests: requests}
	}
	most := Load{Conns: r.Conns, Duration: time.Second}.Run(ctx, target(addrs[0])).Rate()
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var load sync.WaitGroup
	results := make([]*Result, len(addrs))
	for i, addr := range addrs {
		load.Go(func() {
			l := Load{Conns: max(1, r.Conns/4), Rate: max(1, most/2/float64(len(addrs))), Duration: time.Duration(r.Rounds)*r.Duration + time.Second}
			results[i] = l.Run(loading, target(addr))
		})
	}
	err = during()
	stop()
	load.Wait()
	for _, one := range results {
		if one.Failed+one.Broken > 0 {
			trouble = "failed: " + one.trouble()
		}
	}
	return trouble, err
}

func (r *runner) noteLag(since string, nodes int, h *Histogram, refused string) {
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		r.report.Figures = append(r.report.Figures, Figure{
			ID: "revoke/" + since + "/" + q.name, Unit: "ms", Value: micros(h.Quantile(q.at)) / 1000, Refused: refused,
			What: fmt.Sprintf("revoke, from %s until all of %d nodes deny, %s of %d", since, nodes, q.name, h.Count()),
		})
	}
}

// awaitSessions waits until the node at the address has all sessions.
func (s *system) awaitSessions(ctx context.Context, addr string) error {
	if err := until(ctx, startTimeout, func() error { return probe(ctx, "tcp", addr, s.verifyRequest(s.sessions-1)) }); err != nil {
		return fmt.Errorf("wait for a node to have its sessions: %w", err)
	}
	return nil
}

// revokeOnce revokes session i on one of the nodes, and notes when the last one
// denied it.
func (s *system) revokeOnce(addrs []string, i int, lag, whole *Histogram) error {
	t := token(s.log.Number(), i)
	sid, _ := t.Key() // it has the form of one
	ask := &Target{Name: "revoke", Network: "tcp", Addr: addrs[i%len(addrs)]}
	w, err := ask.connect()
	if err != nil {
		return err
	}
	defer w.close()
	denied, errs := make([]time.Time, len(addrs)), make([]error, len(addrs))
	var asking sync.WaitGroup
	for k, addr := range addrs {
		asking.Go(func() { denied[k], errs[k] = awaitDenial(addr, getVerify("/v1/verify", t.Reveal())) })
	}
	asked := time.Now()
	status, err := w.do(postJSON("/v1/sessions/revoke", s.access.APIKey, map[string]string{"session_id": sid.String(), "reason": "bench"}))
	accepted := time.Now()
	asking.Wait()
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("revoke: status %d, %v", status, err)
	}
	last := asked
	for k := range denied {
		if errs[k] != nil {
			return errs[k]
		}
		if denied[k].After(last) {
			last = denied[k]
		}
	}
	lag.Add(last.Sub(accepted))
	whole.Add(last.Sub(asked))
	return nil
}

// awaitDenial asks until the answer is 401, and returns when that was sent for.
func awaitDenial(addr string, request []byte) (time.Time, error) {
	t := &Target{Network: "tcp", Addr: addr}
	w, err := t.connect()
	if err != nil {
		return time.Time{}, err
	}
	defer w.close()
	for end := time.Now().Add(wireTimeout); time.Now().Before(end); {
		status, err := w.do(request)
		switch {
		case err != nil:
			return time.Time{}, err
		case status == http.StatusUnauthorized:
			return time.Now(), nil
		case status != http.StatusNoContent:
			return time.Time{}, fmt.Errorf("verify: status %d", status)
		}
	}
	return time.Time{}, fmt.Errorf("%s did not deny a revoked session in %s", addr, wireTimeout)
}
