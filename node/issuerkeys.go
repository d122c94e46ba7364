package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/revocast/revocast/signer"
)

// How the keys of registered issuers are fetched and kept. Times are of
// Clock.Boot.
const (
	jwksLimit = 64 << 10
	// jwksTimeout bounds one fetch. An attest waits for no more than one.
	jwksTimeout = 3 * time.Second
	// jwksPause is the least time between two fetches from one address, whatever
	// is asked for and whether the last one worked: a flood of unknown kids has the
	// effect of one.
	jwksPause = 10 * time.Second
	// An answer is used for as long as its Cache-Control says, within these.
	jwksLeast = time.Minute
	jwksMost  = time.Hour
	// jwksOutage is how long past that it is used while no newer one can be had.
	jwksOutage = time.Hour
	// maxKeySets bounds what is kept, of all apps together.
	maxKeySets = 4096
)

// errKeys means that the keys of an issuer are not known, and could not be
// fetched. It says nothing of the JWT.
var errKeys = errors.New("keys of the issuer are not at hand")

// issuerKeys keeps the keys that were fetched. It belongs to a node; its zero
// value is ready.
type issuerKeys struct {
	mu     sync.Mutex // guards byURL, and what it holds
	byURL  map[string]*keysAt
	flight singleflight.Group // fetches, by address
}

// keysAt is what is known of one address.
type keysAt struct {
	keys   *signer.ForeignKeys // nil before the first answer that could be used
	fresh  time.Duration       // until when they need not be asked for again
	tried  time.Duration       // when the last fetch began
	asking bool                // it has not ended
	failed error               // how it ended
}

// due reports whether a fetch is to be waited for: one that goes on, or one that
// may begin.
func (k *keysAt) due(kid string, now time.Duration) bool {
	switch {
	case k.asking:
		return true
	case now < k.tried+jwksPause:
		return false
	}
	return now >= k.fresh || !k.keys.Has(kid)
}

// usable returns the keys. It fails when there are none that may be used, and when
// the issuer could not be asked whether it has one of that kid.
func (k *keysAt) usable(kid string, now time.Duration) (*signer.ForeignKeys, error) {
	switch {
	case k.keys == nil, now >= k.fresh+jwksOutage, k.failed != nil && !k.keys.Has(kid):
		return nil, fmt.Errorf("%w: %w", errKeys, cmp.Or(k.failed, errors.New("they are too old")))
	}
	return k.keys, nil
}

// keysFrom returns the keys at the address, among them one of that kid if there
// is one. They are fetched if they are not known, are to be asked for again, or
// have no such kid; but from one address once in jwksPause, by one for all who
// wait. While that fails, those there are do.
func (n *Node) keysFrom(ctx context.Context, address, kid string) (*signer.ForeignKeys, error) {
	held := n.issuerKeys.at(address, n.conf.Clock.Boot())
	if n.issuerKeys.due(held, kid, n.conf.Clock.Boot()) {
		// Whoever leads goes on for the others when its client goes away.
		_, _, _ = n.issuerKeys.flight.Do(address, func() (any, error) {
			n.fetchKeys(context.WithoutCancel(ctx), address, held)
			return nil, nil
		})
	}
	n.issuerKeys.mu.Lock()
	defer n.issuerKeys.mu.Unlock()
	return held.usable(kid, n.conf.Clock.Boot())
}

// at returns what is known of the address, which is shared and guarded by mu.
func (k *issuerKeys) at(address string, now time.Duration) *keysAt {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byURL == nil {
		k.byURL = map[string]*keysAt{}
	}
	held, ok := k.byURL[address]
	if !ok {
		k.forget(now)
		held = &keysAt{tried: -jwksPause}
		k.byURL[address] = held
	}
	return held
}

func (k *issuerKeys) due(held *keysAt, kid string, now time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return held.due(kid, now)
}

// fetchKeys asks the address, unless somebody has just done so.
func (n *Node) fetchKeys(ctx context.Context, address string, held *keysAt) {
	now := n.conf.Clock.Boot()
	n.issuerKeys.mu.Lock()
	if now < held.tried+jwksPause {
		n.issuerKeys.mu.Unlock()
		return
	}
	held.tried, held.asking = now, true
	n.issuerKeys.mu.Unlock()

	keys, life, err := n.askKeys(ctx, address)
	if err != nil && n.refusals.first("keys of an issuer", now) {
		n.conf.Log.Warn("keys of an issuer cannot be fetched", "error", err)
	}
	n.issuerKeys.mu.Lock()
	defer n.issuerKeys.mu.Unlock()
	held.asking, held.failed = false, err
	if err == nil {
		held.keys, held.fresh = keys, now+life
	}
}

// forget makes room for one more: first of what is of no use any more.
func (k *issuerKeys) forget(now time.Duration) {
	if len(k.byURL) < maxKeySets {
		return
	}
	oldest := ""
	for address, held := range k.byURL {
		if (held.keys == nil || now >= held.fresh+jwksOutage) && now >= held.tried+jwksPause && !held.asking {
			delete(k.byURL, address)
		} else if oldest == "" || held.tried < k.byURL[oldest].tried {
			oldest = address
		}
	}
	if len(k.byURL) >= maxKeySets {
		delete(k.byURL, oldest)
	}
}

// askKeys fetches the keys, and says for how long they need not be asked for.
func (n *Node) askKeys(ctx context.Context, address string) (*signer.ForeignKeys, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, jwksTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, errors.New("make request: not a URL")
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "revocast")
	a, err := n.conf.Outbound.Do(ctx, r, jwksLimit)
	if err != nil {
		return nil, 0, err
	}
	if a.Status != http.StatusOK {
		return nil, 0, fmt.Errorf("%s answered %d; a redirect is not followed", r.URL.Hostname(), a.Status)
	}
	keys, err := signer.ParseForeignKeys(a.Body)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", r.URL.Hostname(), err)
	}
	return keys, cacheLife(a.Header), nil
}

// cacheLife returns max-age of Cache-Control (RFC 9111 section 5.2.2.1) within
// what is used here.
func cacheLife(h http.Header) time.Duration {
	life := jwksLeast
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				return jwksLeast
			case "max-age":
				if s, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32); err == nil {
					life = time.Duration(s) * time.Second
				}
			}
		}
	}
	return min(max(life, jwksLeast), jwksMost)
}
