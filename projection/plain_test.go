package projection

import (
	"iter"
	"slices"
	"sync"

	"github.com/revocast/revocast/events"
)

// plain is a store on plain Go maps behind one lock: the model that packed is
// held against.
type plain struct {
	mu      sync.Mutex
	records map[events.SID]*record // immutable
	aliases map[events.SID]events.SID
	users   map[userKey][]events.SID
}

func newPlain() *plain {
	return &plain{
		records: map[events.SID]*record{}, aliases: map[events.SID]events.SID{}, users: map[userKey][]events.SID{},
	}
}

// NewModel returns a Map on plain Go maps.
func NewModel() *Map { return &Map{model: newPlain()} }

func (p *plain) get(sid events.SID) *record {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[sid]; r != nil {
		return clone(r)
	}
	return nil
}

func (p *plain) update(sid events.SID, _ string, change func(*record) *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.records[sid]
	is := change(was)
	if is == was {
		return
	}
	if was != nil && was.known {
		u := userKey{was.App, events.UserHash(was.App, was.User)}
		p.users[u] = slices.DeleteFunc(p.users[u], func(s events.SID) bool { return s == sid })
	}
	if is == nil {
		delete(p.records, sid)
		return
	}
	p.records[sid] = clone(is)
	if is.known {
		u := userKey{is.App, events.UserHash(is.App, is.User)}
		p.users[u] = append(p.users[u], sid)
	}
}

func (p *plain) touch(sid events.SID, seen int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[sid]; r != nil && r.known {
		next := clone(r)
		next.SeenAt = seen
		p.records[sid] = next
	}
}

func (p *plain) alias(key events.SID) (events.SID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sid, ok := p.aliases[key]
	return sid, ok
}

func (p *plain) addAlias(key, sid events.SID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aliases[key] = sid
}

func (p *plain) dropAlias(key, sid events.SID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.aliases[key] == sid {
		delete(p.aliases, key)
	}
}

func (p *plain) of(k userKey) []events.SID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.users[k])
}

func (p *plain) list(slice int) iter.Seq[*record] {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*record
	for sid, r := range p.records {
		if int(keyOf(sid).place().shard) == slice {
			out = append(out, clone(r))
		}
	}
	return slices.Values(out)
}

func (p *plain) tidy(int, int) {}
