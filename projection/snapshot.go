package projection

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
)

// Snapshot is CONFIG at one position. It and all it returns are immutable and
// safe for concurrent use. The zero value is the empty CONFIG.
type Snapshot struct {
	// Gen and Seq are the position up to which CONFIG is applied, LogTime the
	// newest time of its records.
	Gen     uint32
	Seq     uint64
	LogTime time.Time

	objects  *table[events.Subject, *object]
	byApp    *table[string, []*object]      // signing keys, oldest first
	byHash   *table[string, *events.APIKey] // API keys
	byType   *table[typeKey, []*events.Setting]
	byWork   *table[workKey, *events.Work]
	regions  [256]*events.Region
	byRegion *table[string, *events.Region]
	apps     *table[string, *events.App]
	byID     *table[string, *events.APIKey]
}

type typeKey struct{ app, typ string }

type workKey struct{ app, typ, name string }

// Key is a signing key and its private half.
type Key struct {
	Event *events.SigningKey
	// Sealed holds the private key, PKCS #8 DER.
	Sealed events.Sealed
}

// App returns the app, also a suspended or deleted one.
func (n *Snapshot) App(id string) (*events.App, bool) { return found(n.apps.get(id)) }

// Apps yields all apps, deleted ones included, in no order.
func (n *Snapshot) Apps() iter.Seq[*events.App] { return n.apps.values() }

// Keys returns the app's signing keys, retired and compromised ones included,
// oldest first.
func (n *Snapshot) Keys(app string) []Key {
	held := n.byApp.get(app)
	keys := make([]Key, 0, len(held))
	for _, o := range held {
		keys = append(keys, Key{Event: o.event.(*events.SigningKey), Sealed: o.sealed})
	}
	return keys
}

// APIKey returns the API key with the hash (base64url of SHA-256 of the whole
// key), also a revoked or expired one.
func (n *Snapshot) APIKey(hash string) (*events.APIKey, bool) { return found(n.byHash.get(hash)) }

// APIKeyByID returns the API key with the id, also a revoked or expired one.
// The app is part of the name: empty for a cluster admin key.
func (n *Snapshot) APIKeyByID(app, id string) (*events.APIKey, bool) {
	return found(n.byID.get(app + "/" + id))
}

// APIKeys yields all API keys in no order.
func (n *Snapshot) APIKeys() iter.Seq[*events.APIKey] { return n.byID.values() }

// Setting returns one setting of an app, or with an empty app of the cluster,
// and false when it was never made or is deleted.
func (n *Snapshot) Setting(app, typ, name string) (*events.Setting, bool) {
	held := n.byType.get(typeKey{app, typ})
	i, ok := slices.BinarySearchFunc(held, name, byName)
	if !ok {
		return nil, false
	}
	return held[i], true
}

// SettingsOf returns the settings of one type, ordered by name. The caller must
// not change the slice.
func (n *Snapshot) SettingsOf(app, typ string) []*events.Setting {
	return slices.Clip(n.byType.get(typeKey{app, typ}))
}

// SettingsOfType yields the settings of one type of all apps, in no order.
func (n *Snapshot) SettingsOfType(typ string) iter.Seq[*events.Setting] {
	return func(yield func(*events.Setting) bool) {
		for key, held := range n.byType.all() {
			if key.typ != typ {
				continue
			}
			for _, e := range held {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Work returns what is done, and the sequence at which that stands; nil when it
// was never begun or is over, and with 0 while the log, which went backwards, has
// not said it again.
func (n *Snapshot) Work(app, typ, name string) (*events.Work, uint64) {
	e := n.byWork.get(workKey{app, typ, name})
	if e == nil {
		return nil, 0
	}
	return e, n.objects.get(e.Subject(events.ConfigRegion)).seq
}

// Works yields all work there is, in no order.
func (n *Snapshot) Works() iter.Seq[*events.Work] {
	return func(yield func(*events.Work) bool) {
		for e := range n.byWork.values() {
			if e != nil && !yield(e) {
				return
			}
		}
	}
}

// Region returns the region with the name.
func (n *Snapshot) Region(name string) (*events.Region, bool) { return found(n.byRegion.get(name)) }

// RegionByNumber returns the region whose stream has the number.
func (n *Snapshot) RegionByNumber(number uint8) (*events.Region, bool) {
	return found(n.regions[number])
}

// Regions yields all regions, ordered by number.
func (n *Snapshot) Regions() iter.Seq[*events.Region] {
	return func(yield func(*events.Region) bool) {
		for _, r := range n.regions {
			if r != nil && !yield(r) {
				return
			}
		}
	}
}

// Last returns the last sequence on the subject that e is written to, 0 for
// none: what the next change to it must expect, and the Prev it must carry.
func (n *Snapshot) Last(e events.Event) uint64 {
	if o := n.objects.get(e.Subject(events.ConfigRegion)); o != nil {
		return o.last
	}
	return 0
}

func found[T any](v *T) (*T, bool) { return v, v != nil }

func byName(e *events.Setting, name string) int { return strings.Compare(e.Name, name) }

// index puts o, whose event was held before, where readers find it.
func (n *Snapshot) index(held events.Event, o *object) {
	switch e := o.event.(type) {
	case *events.App:
		n.apps = n.apps.with(e.App, e)
	case *events.SigningKey:
		n.byApp = n.byApp.with(e.App, withKey(n.byApp.get(e.App), o))
	case *events.APIKey:
		if was, ok := held.(*events.APIKey); ok && was.Hash != e.Hash && n.byHash.get(was.Hash) == was {
			n.byHash = n.byHash.with(was.Hash, nil)
		}
		n.byHash = n.byHash.with(e.Hash, e)
		n.byID = n.byID.with(e.App+"/"+e.ID, e)
	case *events.Setting:
		key := typeKey{e.App, e.Type}
		n.byType = n.byType.with(key, withSetting(n.byType.get(key), e))
	case *events.Work:
		is := e
		if len(e.Value) == 0 {
			is = nil
		}
		n.byWork = n.byWork.with(workKey{e.App, e.Type, e.Name}, is)
	case *events.Region:
		n.regions[e.Number] = e
		n.byRegion = n.byRegion.with(e.Region, e)
	}
}

func withKey(keys []*object, o *object) []*object {
	kid := o.event.(*events.SigningKey).KID
	next := slices.DeleteFunc(slices.Clone(keys), func(k *object) bool { return k.event.(*events.SigningKey).KID == kid })
	next = append(next, o)
	slices.SortFunc(next, func(a, b *object) int {
		x, y := a.event.(*events.SigningKey), b.event.(*events.SigningKey)
		return cmp.Or(cmp.Compare(x.CreatedAt, y.CreatedAt), cmp.Compare(x.KID, y.KID))
	})
	return next
}

func withSetting(held []*events.Setting, e *events.Setting) []*events.Setting {
	i, ok := slices.BinarySearchFunc(held, e.Name, byName)
	next := slices.Clone(held)
	switch {
	case ok && len(e.Value) == 0:
		return slices.Delete(next, i, i+1)
	case ok:
		next[i] = e
		return next
	case len(e.Value) == 0:
		return held
	}
	return slices.Insert(next, i, e)
}

// table is an immutable map: with returns a changed copy that shares all but a
// 256th of it, so that reading CONFIG from its beginning does not copy the
// whole for each record. A nil table is empty.
type table[K comparable, V any] struct {
	buckets [256]map[K]V
}

func (t *table[K, V]) get(k K) (v V) {
	if t == nil {
		return v
	}
	return t.buckets[uint8(maphash.Comparable(seed, k))][k]
}

func (t *table[K, V]) with(k K, v V) *table[K, V] {
	next := new(table[K, V])
	if t != nil {
		*next = *t
	}
	i := uint8(maphash.Comparable(seed, k))
	bucket := maps.Clone(next.buckets[i])
	if bucket == nil {
		bucket = make(map[K]V, 1)
	}
	bucket[k] = v
	next.buckets[i] = bucket
	return next
}

func (t *table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t == nil {
			return
		}
		for _, bucket := range t.buckets {
			for k, v := range bucket {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

func (t *table[K, V]) values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range t.all() {
			if !yield(v) {
				return
			}
		}
	}
}
