package node

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// ring returns the signing keys of the app, nil when it has none.
func (n *Node) ring(app string) *signer.Ring { return (*n.rings.Load())[app] }

// reload makes the app's ring anew from CONFIG. Only the applier of CONFIG
// calls it. A key that cannot be read is left out: it neither signs nor
// verifies.
func (n *Node) reload(app string) {
	var keys []*signer.Key
	compromised := false
	for _, held := range n.catalog.Snapshot().Keys(app) {
		k, err := n.openKey(held)
		if err != nil {
			n.conf.Log.Error("signing key cannot be used", "app", app, "kid", held.Event.KID, "error", err)
			continue
		}
		compromised = compromised || k.Compromised
		keys = append(keys, k)
	}
	rings := maps.Clone(*n.rings.Load())
	rings[app] = signer.NewRing(keys...)
	n.rings.Store(&rings)
	if compromised {
		// What such a key signed is not to be handed out, and what it was
		// verified with before is not to be believed again.
		n.minted.Purge()
		n.verified.Purge()
	}
}

func (n *Node) openKey(held projection.Key) (*signer.Key, error) {
	e := held.Event
	private, err := n.conf.Keys.OpenVerified(held.Sealed)
	if err != nil {
		return nil, err
	}
	alg, err := signer.ParseAlg(e.Alg)
	if err != nil {
		return nil, err
	}
	k, err := signer.ParsePrivate(alg, private)
	if err != nil {
		return nil, err
	}
	if k.ID != e.KID {
		return nil, fmt.Errorf("key has the thumbprint %s", k.ID)
	}
	k.CreatedAt, k.ActiveAt = fromMS(e.CreatedAt), fromMS(e.ActiveAt)
	k.RetiredAt, k.ListedUntil, k.ForgetAt = fromMS(e.RetiredAt), fromMS(e.ListedUntil), fromMS(e.ForgetAt)
	k.Compromised = e.Compromised
	return k, nil
}

// keyEvent returns the key as an event of the app.
func keyEvent(app, by string, prev uint64, k *signer.Key) (*events.SigningKey, []byte, error) {
	private, err := k.MarshalPrivate()
	if err != nil {
		return nil, nil, fmt.Errorf("marshal signing key: %w", err)
	}
	public, err := k.MarshalPublic()
	if err != nil {
		return nil, nil, fmt.Errorf("marshal signing key: %w", err)
	}
	return &events.SigningKey{
		App: app, KID: k.ID, Alg: string(k.Alg), Public: public,
		CreatedAt: toMS(k.CreatedAt), ActiveAt: toMS(k.ActiveAt), RetiredAt: toMS(k.RetiredAt),
		ListedUntil: toMS(k.ListedUntil), ForgetAt: toMS(k.ForgetAt),
		Compromised: k.Compromised, By: by, Prev: prev,
	}, private, nil
}

func toMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMS(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// issuer returns the iss of the app's JWTs in the profile. Vendors' clients know
// only the base; discovery needs an issuer per app.
func (n *Node) issuerOf(app string, p signer.Profile) string {
	if cmp.Or(p, signer.Native) != signer.Native {
		return n.issuer
	}
	return n.issuer + "/v1/apps/" + app
}
