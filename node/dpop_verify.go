package node

import (
	"context"
	"net/http"
	"strings"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// Reasons of a verify that lacks a proof of possession, or a nonce in it.
const (
	reasonProof = "dpop_proof"
	reasonNonce = "dpop_nonce"
)

// How a verify asks for a proof (RFC 9449 section 7.1). Nobody writes to them.
var (
	proofAlgs      = `, algs="` + strings.Join(signer.ProofAlgs(), " ") + `"`
	proofChallenge = []string{`DPoP error="` + api.ProofInvalid + `"` + proofAlgs}
	nonceChallenge = []string{`DPoP error="` + api.ProofNonce + `"` + proofAlgs}
	dpopChallenge  = []string{`DPoP error="invalid_token"` + proofAlgs}
)

// schemes by which a credential was shown in the header Authorization.
type scheme uint8

const (
	schemeNone scheme = iota // a cookie, a body, or in this process
	schemeBearer
	schemeDPoP
)

// needsProof reports whether the good session lets in only who has a key: it is
// bound to it, its JWT says so, or who showed it says so.
func (o *outcome) needsProof(v *verifyRequest) bool {
	return o.status == http.StatusNoContent && (o.Bound || o.thumbprint != "" || v.scheme == schemeDPoP)
}

// proved returns the outcome, which is good, if the proof is.
func (n *Node) proved(ctx context.Context, v *verifyRequest, o outcome) outcome {
	switch {
	case !o.Bound && o.thumbprint == "":
		return unprovedOutcome(&o, noProof(api.ProofInvalid, "the session is not bound to a key; show its token as Bearer"))
	case v.scheme == schemeBearer:
		// RFC 9449 section 7.2: nobody may take it for a bearer token.
		return unprovedOutcome(&o, noProof(api.ProofInvalid, "the session is bound to a key: show its token as DPoP, with a proof"))
	}
	key := o.thumbprint
	if key == "" {
		var err error
		if key, err = n.keyOf(ctx, &o); err != nil {
			return unanswered(err)
		}
		if o.Sealed.Empty() { // it was waited for
			if o = n.check(ctx, v.shown, &v.verifyQuery); o.status != http.StatusNoContent {
				return o
			}
		}
	}
	app, ok := n.app(o.App)
	if !ok {
		return unanswered(appNotFound(o.App)) // it was there a moment ago
	}
	shown := shownProof{}
	switch {
	case v.proof != nil:
		shown.proofs, shown.method, shown.url = []string{v.proof.Proof}, v.proof.Method, v.proof.URL
	case v.request != nil:
		shown = n.shownBy(v.request)
	}
	shown.token = v.text
	_, nonce, err := n.prove(app, shown, key)
	if err != nil {
		return unprovedOutcome(&o, err)
	}
	o.nonce = nonce
	return o
}

// keyOf returns the thumbprint of the key to which the session is bound. A verify
// waits for the private part no longer than for one that a JWT needs.
func (n *Node) keyOf(ctx context.Context, o *outcome) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, jwtPatience)
	defer cancel()
	f := found{answer: o.answer}
	p, err := n.private(ctx, &f)
	if err != nil {
		return "", err
	}
	return p.Thumbprint, nil
}

// unprovedOutcome is the outcome for who did not prove it; nothing is said of the
// session.
func unprovedOutcome(o *outcome, err error) outcome {
	f := classify(err)
	out := outcome{answer: answer{staleness: o.staleness}, status: http.StatusUnauthorized, err: f, nonce: f.nonce}
	switch f.kind {
	case api.ProofInvalid:
		out.reason, out.challenge = reasonProof, proofChallenge
	case api.ProofNonce:
		out.reason, out.challenge = reasonNonce, nonceChallenge
	default:
		return unanswered(err)
	}
	return out
}
