package node

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// rotation is how keys come and go. A retired key stays listed for the longest
// JWT that any template may ask for.
var rotation = signer.RotationPolicy{JWTLife: maxJWTTTL * time.Second}

// writeKey records the key. Once it can no longer matter the log may drop it.
func (n *Node) writeKey(ctx context.Context, snap *projection.Snapshot, app, by string, k *signer.Key) (events.Position, error) {
	e, private, err := keyEvent(app, by, 0, k)
	if err != nil {
		return events.Position{}, err
	}
	e.Prev = snap.Last(e)
	if !k.Compromised && slices.ContainsFunc(snap.Keys(app), func(held projection.Key) bool {
		return held.Event.KID == k.ID && held.Event.Compromised
	}) {
		// The ring that k was taken from is older than the snapshot: k was
		// found compromised in between.
		return events.Position{}, events.ErrConflict
	}
	var life time.Duration
	if !k.ForgetAt.IsZero() && !k.Compromised {
		life = max(k.ForgetAt.Sub(n.conf.Clock.Wall()), 0) + events.TTLSlack
	}
	return n.configure(ctx, e, private, life, e.Prev)
}

// firstKey gives an app that does not exist yet a key that signs at once:
// nobody can have cached its keys.
func (n *Node) firstKey(ctx context.Context, snap *projection.Snapshot, app, alg, by string) error {
	k, err := signer.GenerateKey(signer.Alg(alg))
	if err != nil {
		return err
	}
	k.CreatedAt = n.conf.Clock.Wall()
	// It may sign on nodes whose clock is behind as well: there is no key before it
	// that they could sign with instead.
	k.ActiveAt = k.CreatedAt.Add(-maxClockSkew)
	_, err = n.writeKey(ctx, snap, app, by, k)
	return err
}

// changeAlg gives the app a key of the new algorithm, published now and signing
// in an hour, when those of the old algorithm retire.
func (n *Node) changeAlg(ctx context.Context, snap *projection.Snapshot, app, from, to, by string) error {
	ring, now := n.ring(app), n.conf.Clock.Wall()
	stays := func(alg string) func(*signer.Key) bool {
		return func(k *signer.Key) bool { return string(k.Alg) == alg && !k.Compromised && k.RetiredAt.IsZero() }
	}
	start := now
	if i := slices.IndexFunc(ring.Keys(), stays(to)); i >= 0 {
		if at := ring.Keys()[i].ActiveAt; at.After(now) {
			start = at
		}
	} else {
		changed, err := rotation.Rotate(ring, signer.Alg(to), now)
		if err != nil {
			return err
		}
		start = changed[0].ActiveAt
		if _, err := n.writeKey(ctx, snap, app, by, changed[0]); err != nil {
			return err
		}
	}
	for _, k := range slices.DeleteFunc(ring.Keys(), func(k *signer.Key) bool { return !stays(from)(k) }) {
		old, err := rotation.Retire(ring, k.ID, start)
		if err != nil {
			return err
		}
		if _, err := n.writeKey(ctx, snap, app, by, old); err != nil {
			return err
		}
	}
	return nil
}

// signingKeys returns the app's keys as the API has them, newest first, without
// those that even expired JWTs no longer need.
func (n *Node) signingKeys(app string) []api.SigningKey {
	return shownKeys(n.ring(app), n.conf.Clock.Wall())
}

func shownKeys(ring *signer.Ring, now time.Time) []api.SigningKey {
	all := []api.SigningKey{}
	for _, k := range ring.Keys() {
		if !k.ForgetAt.IsZero() && !now.Before(k.ForgetAt) {
			continue
		}
		state := "active"
		switch {
		case k.Compromised:
			state = "compromised"
		case !k.RetiredAt.IsZero() && !now.Before(k.RetiredAt):
			state = "retired"
		case now.Before(k.ActiveAt):
			state = "next"
		}
		all = append(all, api.SigningKey{
			KID: k.ID, Alg: string(k.Alg), State: state, CreatedAt: k.CreatedAt.UTC(), ActiveAt: k.ActiveAt.UTC(),
			RetiredAt: moment(toMS(k.RetiredAt)), ListedUntil: moment(toMS(k.ListedUntil)),
		})
	}
	return all
}

func (n *Node) listSigningKeys(_ context.Context, c *call) (int, any, error) {
	if stale := n.configStale(); stale != nil {
		return 0, nil, stale
	}
	return http.StatusOK, &api.SigningKeyList{Keys: n.signingKeys(c.caller.app)}, nil
}

// rotateSigningKeys publishes the next key, or removes a compromised one.
func (n *Node) rotateSigningKeys(ctx context.Context, c *call) (int, any, error) {
	start := n.conf.Clock.Wall()
	var in api.RotateKeys
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	wait, err := waitParam(c)
	if err != nil {
		return 0, nil, err
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	if in.Compromised != "" {
		if in.Alg != "" {
			return 0, nil, badSetting("alg", "not together with compromised: the new key has the algorithm of the old")
		}
		return n.compromise(ctx, c, snap, in.Compromised, start, wait)
	}
	alg := c.caller.settings.JWTAlg
	if in.Alg != "" && in.Alg != alg {
		if _, err := signer.ParseAlg(in.Alg); err != nil {
			return 0, nil, badSetting("alg", "want one of ES256, RS256, EdDSA")
		}
		return 0, nil, badSetting("alg", "the app signs with %s; change its jwt_alg instead", alg)
	}
	for _, k := range n.ring(c.caller.app).Keys() {
		if string(k.Alg) == alg && !k.Compromised && start.Before(k.ActiveAt) {
			return 0, nil, fail(api.Conflict, "the next key, %s, is published already and signs from %s on",
				k.ID, k.ActiveAt.UTC().Format(time.RFC3339)).with("kid", k.ID)
		}
	}
	changed, err := rotation.Rotate(n.ring(c.caller.app), signer.Alg(alg), start)
	if err != nil {
		return 0, nil, err
	}
	var pos events.Position
	for _, k := range changed {
		if pos, err = n.writeKey(ctx, snap, c.caller.app, c.caller.keyID, k); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusOK, &api.SigningKeyList{Keys: n.signingKeys(c.caller.app), Revision: pos.String()}, nil
}

// compromise makes JWTs of the key worthless. Its replacement is recorded
// first, so that whatever happens in between the app can mint.
//
// Verifiers elsewhere refuse the key only when they fetch the JWKS anew, so
// the receipt's jwt_safe_after counts the longest that they may cache it.
func (n *Node) compromise(ctx context.Context, c *call, snap *projection.Snapshot, kid string, start time.Time, wait string) (int, any, error) {
	app := c.caller.app
	ring := n.ring(app)
	held, ok := ring.Find(kid)
	if !ok {
		return 0, nil, fail(api.NotFound, "app %s has no signing key %q", app, kid)
	}
	pos := n.settings.at(snap.Last(&events.SigningKey{App: app, KID: kid}))
	if !held.Compromised {
		changed, err := rotation.Compromise(ring, kid, start)
		if err != nil {
			return 0, nil, err
		}
		slices.Reverse(changed)
		for _, k := range changed {
			if pos, err = n.writeKey(ctx, snap, app, c.caller.keyID, k); err != nil {
				return 0, nil, err
			}
		}
	}
	receipt := n.receipt(ctx, n.settings, pos, start, wait, signer.DefaultPublish)
	return receiptStatus(receipt, wait), &api.SigningKeyList{
		Keys: n.signingKeys(app), Revision: pos.String(), Receipt: receipt,
	}, nil
}
