package events

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// MemoryConfig says what a Memory is like.
type MemoryConfig struct {
	// Clock stamps entries and ends their TTL. Nil: SystemClock. A clock of
	// its own makes the log's time differ from that of its nodes.
	Clock Clock
	// MaxBytes is the budget of the stream in bytes; 0: none.
	MaxBytes uint64
	// MaxMsgSize is the largest payload together with its headers, in bytes;
	// 0: MaxEvent.
	MaxMsgSize int
}

// Sizes that a stored message has beside subject, payload and seal: the
// frame of the headers, and that of the record in the file.
const (
	memoryHeaders = 64
	memoryRecord  = 32
)

// Memory is a stream and its archive in memory, for tests: it behaves as the
// JetStream one does, and can fail in every way that one does. It is not
// durable, and keeps what was replaced until its TTL ends, so that Truncate can
// bring it back.
//
// It is a Log and an Archive by the link it embeds; Link gives each further
// node one of its own, with faults of its own. What is said of the stream
// itself (Inject, Truncate, Recreate, BreakAll, SetMaxBytes) reaches all links.
//
// It waits on channels only and takes time from its clock, so it works inside
// a testing/synctest bubble when it was made there.
type Memory struct {
	MemoryLink
	region string
	number uint8
	clock  Clock
	maxMsg int

	mu       sync.Mutex    // guards what follows and the fields of every link
	changed  chan struct{} // closed, and made anew, when any of it changes
	maxBytes uint64
	life     int          // counts Recreate
	slots    []memorySlot // by sequence, the first is sequence 1
	first    uint64       // no sequence below it is live
	subjects map[string]uint64
	due      memoryDue
	bytes    uint64
	archive  []Archived
	links    []*MemoryLink
}

// memorySlot is a sequence: its entry, nil once expired, and the sequence that
// replaced it.
type memorySlot struct {
	entry *Entry
	by    uint64
}

func (s memorySlot) live() bool { return s.entry != nil && s.by == 0 }

// NewMemory returns an empty stream of the region with the number.
func NewMemory(region string, number uint8, c MemoryConfig) *Memory {
	m := &Memory{
		region:   region,
		number:   number,
		clock:    c.Clock,
		maxMsg:   c.MaxMsgSize,
		maxBytes: c.MaxBytes,
		changed:  make(chan struct{}),
		first:    1,
		subjects: map[string]uint64{},
	}
	if m.clock == nil {
		m.clock = SystemClock{}
	}
	if m.maxMsg == 0 {
		m.maxMsg = MaxEvent
	}
	m.MemoryLink.m = m
	m.links = []*MemoryLink{&m.MemoryLink}
	return m
}

// Link returns a further connection to the stream, as another node has it.
func (m *Memory) Link() *MemoryLink {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &MemoryLink{m: m, life: m.life}
	m.links = append(m.links, l)
	return l
}

// Inject stores the message whatever it is, as anybody can who reaches the
// stream with a client of their own: no seal is looked at, nothing is expected.
// Limits of the stream itself hold.
func (m *Memory) Inject(msg Message) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store(msg, Expectation{})
}

// SetMaxBytes changes the budget; 0 removes it. A budget below what is stored
// removes nothing.
func (m *Memory) SetMaxBytes(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.maxBytes = n
}

// Truncate makes the log go backwards: its last n sequences were never
// written, what they had replaced is back, and the sequences will be used
// again. It breaks every subscription, as the event behind it (a power cut, an
// old backup) does. The archive, being a copy, keeps what it has.
func (m *Memory) Truncate(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.truncate(n)
	m.breakAll()
}

// TruncateUnseen is Truncate that breaks no subscription: what happens behind a
// server that the nodes are not connected to. A follower goes on behind what it
// applied.
func (m *Memory) TruncateUnseen(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.truncate(n)
	m.wake()
}

// truncate takes the last n sequences away. m.mu is held.
func (m *Memory) truncate(n int) {
	m.slots = m.slots[:max(0, len(m.slots)-n)]
	m.first, m.bytes = 1, 0
	clear(m.subjects)
	for i := range m.slots {
		s := &m.slots[i]
		if s.by > m.last() {
			s.by = 0
		}
		if s.live() {
			m.subjects[s.entry.Subject] = s.entry.Seq
			m.bytes += memorySize(&s.entry.Message)
		}
	}
}

// Recreate replaces the stream and its archive by empty ones of the same name.
// To the links there are, it is another stream than they know.
func (m *Memory) Recreate() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life++
	m.slots, m.first, m.bytes = nil, 1, 0
	clear(m.subjects)
	m.due, m.archive = nil, nil
	m.breakAll()
}

// BreakAll breaks the subscriptions of all links, as a restart of the server
// does: followers begin again at their anchors.
func (m *Memory) BreakAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.breakAll()
}

func (m *Memory) breakAll() {
	for _, l := range m.links {
		l.breaks++
	}
	m.wake()
}

// wake lets everybody who waits look again. m.mu is held.
func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Memory) last() uint64 { return uint64(len(m.slots)) }

// store appends the message if stream and expectation allow it. m.mu is held.
func (m *Memory) store(msg Message, e Expectation) (uint64, error) {
	now := m.clock.Wall()
	m.expire(now)
	switch {
	case !strings.HasPrefix(msg.Subject, "ev."+m.region+"."):
		return 0, fmt.Errorf("append: the stream of %s does not take subject %q", m.region, msg.Subject)
	case msg.TTL < 0 || msg.TTL%time.Second != 0:
		return 0, fmt.Errorf("append: TTL %v is not in whole seconds", msg.TTL)
	case len(msg.Payload)+len(msg.Seal)+memoryHeaders > m.maxMsg:
		return 0, ErrTooLarge
	}
	old := m.subjects[msg.Subject]
	if e.Set && old != e.Seq {
		if old != 0 && msg.Seal != "" && sameMessage(m.slots[old-1].entry.Message, msg) {
			return old, nil
		}
		return 0, ErrConflict
	}
	size, freed := memorySize(&msg), uint64(0)
	if old != 0 {
		freed = memorySize(&m.slots[old-1].entry.Message)
	}
	// A replacement passes a full stream only when it is smaller, as measured
	// with JetStream on one replica.
	if m.maxBytes > 0 && m.bytes+size > m.maxBytes && size >= freed {
		return 0, ErrFull
	}
	seq := m.last() + 1
	entry := &Entry{Seq: seq, Time: now, Message: msg}
	m.slots = append(m.slots, memorySlot{entry: entry})
	if old != 0 {
		m.slots[old-1].by = seq
	}
	m.subjects[msg.Subject] = seq
	m.bytes += size - freed
	if msg.TTL > 0 {
		heap.Push(&m.due, memoryDeadline{now.Add(msg.TTL), entry})
	}
	if archived(msg.Subject) {
		m.archive = append(m.archive, Archived{
			Entry:  Entry{Seq: uint64(len(m.archive) + 1), Time: now, Message: msg},
			Origin: seq,
		})
	}
	m.wake()
	return seq, nil
}

func memorySize(m *Message) uint64 {
	return uint64(len(m.Subject) + len(m.Payload) + len(m.Seal) + memoryHeaders + memoryRecord)
}

func sameMessage(a, b Message) bool {
	return a.Subject == b.Subject && a.Seal == b.Seal && a.TTL == b.TTL && string(a.Payload) == string(b.Payload)
}

// archived reports whether the archive keeps messages of the subject: all but
// what nodes say of themselves and do for each other, touches, and that sessions
// ran out.
func archived(subject string) bool {
	switch Kind(subject[strings.LastIndexByte(subject, '.')+1:]) {
	case KindTouch, KindExpire, KindNode, KindBeat, KindMarker, KindWork:
		return false
	}
	return true
}

// expire drops what is due. m.mu is held.
func (m *Memory) expire(now time.Time) {
	for len(m.due) > 0 && !m.due[0].at.After(now) {
		e := heap.Pop(&m.due).(memoryDeadline).entry
		if e.Seq > m.last() || m.slots[e.Seq-1].entry != e {
			continue // truncated meanwhile
		}
		s := &m.slots[e.Seq-1]
		if s.live() {
			delete(m.subjects, e.Subject)
			m.bytes -= memorySize(&e.Message)
		}
		s.entry = nil
	}
}

// from returns the first entry at or after seq, or nil. m.mu is held.
func (m *Memory) from(seq uint64) *Entry {
	for i := max(seq, m.firstSeq()); i <= m.last(); i++ {
		if s := m.slots[i-1]; s.live() {
			return s.entry
		}
	}
	return nil
}

// firstSeq returns the first live sequence, or the next one to be used.
func (m *Memory) firstSeq() uint64 {
	for m.first <= m.last() && !m.slots[m.first-1].live() {
		m.first++
	}
	return m.first
}

// clone returns a copy whose bytes belong to the caller.
func (e *Entry) clone() Entry {
	c := *e
	c.Payload = slices.Clone(e.Payload)
	return c
}

// memoryDue is a heap of deadlines, the earliest first.
type memoryDue []memoryDeadline

type memoryDeadline struct {
	at    time.Time
	entry *Entry
}

func (d memoryDue) Len() int           { return len(d) }
func (d memoryDue) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d memoryDue) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *memoryDue) Push(x any)        { *d = append(*d, x.(memoryDeadline)) }
func (d *memoryDue) Pop() any {
	old := *d
	x := old[len(old)-1]
	*d = old[:len(old)-1]
	return x
}

// unavailable is ErrUnavailable together with why.
func unavailable(ctx context.Context) error {
	return errors.Join(ErrUnavailable, context.Cause(ctx))
}
