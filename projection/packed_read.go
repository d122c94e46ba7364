package projection

import (
	"unsafe"

	"github.com/revocast/revocast/events"
)

// reader takes words, and then bytes, in the order in which writer adds them.
type reader struct {
	b block
	i int
}

func (d *reader) word() uint64 {
	w := *d.b.word(d.i)
	d.i++
	return w
}

func (d *reader) int() int64 { return int64(d.word()) }

// texts takes bytes. They stay in the page, which lasts as long as any of them.
// It adds up an offset, as a pointer to where the last text ends may be one to
// something else.
type texts struct {
	base unsafe.Pointer
	at   uint64
}

func (t *texts) take(n uint64) *byte {
	p := (*byte)(unsafe.Add(t.base, t.at))
	t.at += n
	return p
}

func (t *texts) text(n uint64) string {
	if n == 0 {
		return ""
	}
	return unsafe.String(t.take(n), n)
}

func (t *texts) bytes(n uint64) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice(t.take(n), n)
}

// standing is what a record has beside its session.
type standing struct {
	known, found, gone bool
	rank               rank
	from               uint8
	longest, until     int64
}

func (r *record) standing() standing {
	return standing{
		known: r.known, found: r.found, gone: r.gone,
		rank: r.rank, from: r.from, longest: r.longest, until: r.until,
	}
}

func (r *record) stand(st *standing) {
	r.known, r.found, r.gone = st.known, st.found, st.gone
	r.rank, r.from, r.longest, r.until = st.rank, st.from, st.longest, st.until
}

// record reads the block into r, which is zero.
func (b block) record(r *record, n *names) {
	var st standing
	b.read(&r.Session, &st, n)
	r.stand(&st)
}

// read fills in the session of the block and the rest of its record, both zero.
// Texts and the private part are those in the page: nothing is copied, and a
// session is written only once, where the caller wants it.
func (b block) read(s *Session, r *standing, n *names) {
	flags := b.flags()
	d := reader{b: b, i: atSeen}
	s.SID = b.key().sid()
	r.known, r.found, r.gone = flags&hasState != 0, flags&isFound != 0, flags&isGone != 0
	var user, sealed, by, reason, app, apiKey uint64
	if r.known {
		s.SeenAt, s.Bound = b.seen(), flags&isBound != 0
		d.i = atBefore + 1
		s.ExpiresAt, s.AbsoluteAt, s.CreatedAt = d.int(), d.int(), d.int()
		s.CreatedSeq = d.word()
		s.StateSeq = s.CreatedSeq
		r.longest = s.ExpiresAt
		lengths := d.word()
		user, sealed = lengths&(1<<24-1), lengths>>24&(1<<24-1)
		if by := uint16(lengths >> 48); by != 0 {
			s.By = n.text(by)
		}
		d.state(s, flags)
	} else {
		s.AbsoluteAt, user = d.int(), d.word()
	}
	if flags&hasLongest != 0 {
		r.longest = d.int()
	}
	if flags&hasRevoked != 0 {
		s.RevokedAt, r.until = d.int(), d.int()
		w := d.word()
		r.rank, r.from, by, reason = rank(w), uint8(w>>8), w>>16&(1<<24-1), w>>40
	}
	if flags&hasApp != 0 {
		app = d.word()
	} else {
		s.App = n.text(uint16(*b.first >> 40))
	}
	if flags&hasBy != 0 {
		apiKey = d.word()
	}
	t := texts{unsafe.Pointer(b.first), uint64(d.i) * 8}
	s.User, s.Sealed = t.text(user), events.Sealed(t.bytes(sealed))
	s.RevokedBy, s.RevokeReason = t.text(by), t.text(reason)
	if app != 0 {
		s.App = t.text(app)
	}
	if apiKey != 0 {
		s.By = t.text(apiKey)
	}
}

// state takes the words that only a state has.
func (d *reader) state(s *Session, flags uint64) {
	if flags&hasSeq != 0 {
		s.StateSeq = d.word()
	}
	if flags&hasIdle != 0 {
		s.Idle = d.int()
	}
	if flags&hasAuth != 0 {
		s.AuthSeq = d.word()
	}
	if flags&hasUntil != 0 {
		s.OriginalUntil = d.int()
	}
	if flags&hasAlias1 == 0 {
		return
	}
	for i, flag := range [...]uint64{hasAlias1, hasAlias2} {
		if flags&flag != 0 {
			s.Aliases[i] = events.Alias{Key: key{d.word(), d.word()}.sid(), Until: d.int()}
		}
	}
}
