package node

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// A session may be bound to a key of the client (RFC 9449): a token or a JWT of
// it, shown without a fresh proof of that key, lets nobody in. The projection says
// whether it is bound, the private part and cnf of its JWTs to which key.
//
// Who lets a session in either demands the proof (prove), as verify, authenticate
// and rotate do, or hands cnf to somebody who can, as introspection does. What
// does neither uses findCredential, which refuses bound sessions.

// dpopHeader bears a proof; nonceHeader what the next one must hold.
const (
	dpopHeader  = "Dpop"
	nonceHeader = "Dpop-Nonce"
)

const (
	// proofsHeld is how many proofs are remembered so that none counts twice. What
	// falls out within two minutes could count again on this node: that takes more
	// than a thousand proofs a second, each of a good session.
	proofsHeld = 1 << 17
	// nonceLife is for how long a nonce is handed out; it counts for as long again.
	nonceLife = time.Minute
	// anyKey takes the proof of whichever key.
	anyKey = "*"
)

// shownProof is a proof of possession as it was shown, and the request that it
// must be about.
type shownProof struct {
	proofs      []string // only exactly one counts
	method, url string   // of the request that the client made; no url: that is not known
	token       string   // the token or the JWT that was shown; empty: none
}

// proofs remembers which proofs were used. The zero value is not ready.
type proofs struct {
	used *lru.Cache[[16]byte, struct{}]
}

func newProofs() proofs {
	used, _ := lru.New[[16]byte, struct{}](proofsHeld) // fails only for a size below 1
	return proofs{used}
}

// use reports whether the proof is used for the first time. It must be good
// otherwise: what is not must cost nobody his place.
func (u proofs) use(p *signer.Proof) bool {
	sum := sha256.Sum256([]byte(p.Thumbprint + "." + p.ID))
	seen, _ := u.used.ContainsOrAdd([16]byte(sum[:]), struct{}{})
	return !seen
}

// prove checks the proof against the key with the thumbprint, or with anyKey
// returns whose it is. The nonce, if there is one, is what the next proof should
// hold: the app wants one, and this proof's will soon not count any more.
//
// The error is a failure that names the trouble, or says that this node cannot
// tell.
func (n *Node) prove(app *events.App, p shownProof, thumbprint string) (of, nonce string, err error) {
	var fresh string
	if app.Settings.DPoPNonce {
		if fresh, err = n.dpopNonce(app.App, 0); err != nil {
			return "", "", err
		}
	}
	refused := func(kind, format string, args ...any) (string, string, error) {
		f := noProof(kind, format, args...)
		f.nonce = fresh
		return "", "", f
	}
	if len(p.proofs) != 1 {
		return refused(api.ProofInvalid, "the session is bound to a key: one DPoP proof of it is needed, and there are %d", len(p.proofs))
	}
	proof, err := signer.ParseProof(p.proofs[0])
	if err == nil && thumbprint != anyKey && proof.Thumbprint != thumbprint {
		err = signer.ErrProof("it is one of another key")
	}
	if err == nil {
		err = proof.Check(p.method, p.url, p.token, n.conf.Clock.Wall())
	}
	if err != nil {
		return refused(api.ProofInvalid, "%v", err)
	}
	if fresh != "" {
		current, err := n.counts(app.App, proof.Nonce)
		switch {
		case err != nil:
			return "", "", err
		case !current:
			return refused(api.ProofNonce, "the proof needs the nonce of the header DPoP-Nonce")
		case proof.Nonce != fresh:
			nonce = fresh
		}
	}
	if !n.proofs.use(proof) {
		return refused(api.ProofInvalid, "the proof was used before")
	}
	return proof.Thumbprint, nonce, nil
}

// dpopNonce returns the nonce of the app, now or so many lives of a nonce later.
// It follows from the clock and what all nodes know, so any of them takes it.
func (n *Node) dpopNonce(app string, later int64) (string, error) {
	secret, err := n.idempotencySecret()
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("revocast dpop nonce\x00" + app + "\x00"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(n.wall()/nonceLife.Milliseconds()+later)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16]), nil
}

// counts reports whether the nonce is that of now, of the time before, or, as
// clocks differ, of the time to come.
func (n *Node) counts(app, nonce string) (bool, error) {
	for _, later := range []int64{0, -1, 1} {
		want, err := n.dpopNonce(app, later)
		if err != nil {
			return false, err
		}
		if hmac.Equal([]byte(want), []byte(nonce)) {
			return true, nil
		}
	}
	return false, nil
}

// proveFound demands, of a good session that is bound, the proof that the caller
// passes on. A proof for a session that is not bound asks for a check that cannot
// be made, and so is refused too.
func (n *Node) proveFound(ctx context.Context, c *call, app *events.App, f found, in *api.DPoPProof, token string) error {
	if !f.Bound && in == nil {
		return nil
	}
	if !f.Bound {
		return noProof(api.ProofInvalid, "the session is not bound to a key")
	}
	p, err := n.private(ctx, &f)
	if err != nil {
		return err
	}
	shown := shownProof{token: token}
	if in != nil {
		shown.proofs, shown.method, shown.url = []string{in.Proof}, in.Method, in.URL
	}
	_, nonce, err := n.prove(app, shown, p.Thumbprint)
	c.nonce(nonce)
	return err
}

// nonce hands out what the next proof should hold.
func (c *call) nonce(nonce string) {
	if nonce != "" {
		c.h.Set(nonceHeader, nonce)
	}
}

// unproved is how a bound session is answered where no proof can be shown.
func unproved() *failure {
	return noProof(api.ProofInvalid, "the session is bound to a key, and this request can show no proof of it")
}

// noProof is a failure of the kind, ProofInvalid or ProofNonce.
func noProof(kind, format string, args ...any) *failure {
	f := fail(kind, format, args...)
	f.challenge = proofChallenge[0]
	if kind == api.ProofNonce {
		f.challenge = nonceChallenge[0]
	}
	return f
}

// bind returns the thumbprint of the key to which a new session is to be bound,
// empty for none: that of the proof in the header, which a client that creates its
// session itself has made for this call, or what the body says.
func (n *Node) bind(c *call, app *events.App, in *api.Bind) (string, error) {
	given := ""
	if in != nil {
		if given = in.DPoPJKT; !signer.ValidThumbprint(given) {
			return "", fail(api.InvalidArgument, "bind.dpop_jkt: want the SHA-256 thumbprint of a public key (RFC 7638), 43 characters of base64url").
				with("field", "bind.dpop_jkt")
		}
	}
	header := c.r.Header.Values(dpopHeader)
	if len(header) == 0 {
		return given, nil
	}
	key := anyKey
	if given != "" {
		key = given
	}
	of, nonce, err := n.prove(app, shownProof{proofs: header, method: c.r.Method, url: n.issuer + c.r.URL.EscapedPath()}, key)
	c.nonce(nonce)
	return of, err
}

// bindable refuses to bind a session while some node runs that would not know:
// it could only fence itself.
func (n *Node) bindable() error {
	if _, format, _ := n.listed(); format < events.BoundVersion {
		return fail(api.ClusterOutdated, "some node runs a version that does not know bound sessions; finish the upgrade first")
	}
	return nil
}

// ownProof returns the proof of a request that its client sent to this very route,
// whatever it says of having been forwarded: here no proxy asks for somebody else.
// Nil: there is none, or more than one.
func (n *Node) ownProof(r *http.Request) *api.DPoPProof {
	if proofs := r.Header[dpopHeader]; len(proofs) == 1 {
		return &api.DPoPProof{Proof: proofs[0], Method: r.Method, URL: n.issuer + r.URL.EscapedPath()}
	}
	return nil
}

// shownBy returns the proof that came with a verify. A proxy that asks on behalf
// of a client says which request that client has made, and so has signed, in the
// four X-Forwarded headers, of which each must be there once; it must set them
// itself, whatever the client sent. Without them it is this very request.
func (n *Node) shownBy(r *http.Request) shownProof {
	p := shownProof{proofs: r.Header[dpopHeader], method: r.Method}
	method, uri := r.Header["X-Forwarded-Method"], r.Header["X-Forwarded-Uri"]
	if len(method) == 0 && len(uri) == 0 {
		p.url = n.issuer + r.URL.EscapedPath()
		return p
	}
	proto, host := r.Header["X-Forwarded-Proto"], r.Header["X-Forwarded-Host"]
	if len(method) != 1 || len(uri) != 1 || len(proto) != 1 || len(host) != 1 || !strings.HasPrefix(uri[0], "/") {
		return p
	}
	path, _, _ := strings.Cut(uri[0], "?")
	path, _, _ = strings.Cut(path, "#")
	if strings.ContainsAny(host[0], "/?#@\\, ") {
		return p
	}
	p.method, p.url = method[0], proto[0]+"://"+host[0]+path
	return p
}
