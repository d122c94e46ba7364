package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"sync"
	"time"
)

// Mesh is how nodes ask one another: whether a position is applied, which only
// makes receipts fast, and what else the log does not say, such as how they are.
// Nothing that it loses, delays or repeats makes an answer to a client wrong, and
// nothing goes through it that could not stand in the payload of an event: what
// it carries is authentic, not secret.
//
// Its methods are safe for concurrent use.
type Mesh interface {
	// Run receives questions and answers until ctx ends, and returns when all
	// it started has ended. It is called once.
	//
	// It gives a.Confirm each authentic question of another Mesh, and the query
	// of its topic each authentic query that is to a.Me or to everybody, in a
	// goroutine of its own, and sends what they return unless that is false. It
	// MUST bound how many are answered at a time, and MAY leave out the rest.
	Run(ctx context.Context, a Answers) error

	// Ask puts the question to every node that runs, again and again, until ctx
	// ends, and gives confirmed what they answer: possibly more than once, never
	// after Ask has returned, and only while this Mesh runs. Confirmed must not
	// block and must not call the Mesh.
	//
	// It MUST give only what a holder of a cluster key answered to this very
	// call: whoever reaches the network could otherwise forge a receipt.
	Ask(ctx context.Context, q Question, confirmed func(Confirmation))

	// Query puts the body, of at most MaxQuery bytes, to the node of the
	// incarnation, or with the zero Incarnation to every other node that runs,
	// again and again, until ctx ends, and gives heard what they answer:
	// possibly more than once, never after Query has returned, and only while
	// this Mesh runs. Heard owns the bytes, must not block and must not call the
	// Mesh. A node that does not know the topic says nothing. The topic is a
	// valid name.
	//
	// It MUST give only what a holder of a cluster key answered to this very
	// call, and of whom it asked.
	Query(ctx context.Context, topic string, to Incarnation, body []byte, heard func(from Incarnation, body []byte))
}

// Question asks whether readers of a node see the stream up to Seq.
type Question struct {
	Stream string // its region
	Seq    uint64
	// Event is the fingerprint of what whoever asks applied at Seq; 0: unknown.
	// A node that applied another event there follows another log, and MUST NOT
	// confirm.
	Event uint64
}

// Confirmation is one node's yes: no request that begins now is answered by it
// without what the question is about. Fenced says why: the node has no lease,
// and takes none from a heartbeat below the sequence.
type Confirmation struct {
	Node        string
	Incarnation Incarnation
	Fenced      bool
}

const (
	// maxAnswering is how many questions a node deals with at a time.
	maxAnswering = 1024
	// askAgain is the time after which a question is repeated: it or its
	// answers may be lost.
	askAgain = time.Second
	// meshSubject begins the subjects of questions, confirm.<region>, and of
	// answers, confirm.<region>.<asker>.<nonce>.
	meshSubject = "confirm."
)

// meshVersion is the version of what nodes say to one another over the mesh.
const meshVersion = 1

// meshQuestion and meshAnswer are the payloads. The seal binds them to their
// subjects, and the nonce of an answer to one call of Ask.
type meshQuestion struct {
	V      int         `json:"v"`
	Stream string      `json:"stream"`
	Seq    uint64      `json:"seq"`
	Event  uint64      `json:"event,omitempty,string"`
	Asker  Incarnation `json:"asker"`
	Nonce  Incarnation `json:"nonce"`
}

type meshAnswer struct {
	V           int         `json:"v"`
	Stream      string      `json:"stream"`
	Seq         uint64      `json:"seq"`
	Nonce       Incarnation `json:"nonce"`
	Node        string      `json:"node"`
	Incarnation Incarnation `json:"incarnation"`
	Fenced      bool        `json:"fenced,omitempty"`
}

// meshWire carries messages, to everybody and without any promise.
type meshWire interface {
	publish(Message) error
	// receive gives fn, one at a time until ctx ends, what is published to
	// subjects that match one of the filters.
	receive(ctx context.Context, filters []string, fn func(Message)) error
}

// sealedMesh is a Mesh over any wire.
type sealedMesh struct {
	keys  *ClusterKeys
	wire  meshWire
	asker Incarnation // names this Mesh in subjects of answers

	answers sync.WaitGroup // what Run has started

	mu        sync.Mutex // guards what follows
	asks      map[Incarnation]*meshAsk
	calls     map[Incarnation]*meshCall
	answering map[Incarnation]struct{} // nonces of the questions under way
	querying  map[Incarnation]struct{} // of the queries
}

// meshAsk is one call of Ask.
type meshAsk struct {
	q         Question
	confirmed func(Confirmation)
}

func newSealedMesh(keys *ClusterKeys, wire meshWire) *sealedMesh {
	return &sealedMesh{
		keys: keys, wire: wire, asker: NewIncarnation(),
		asks: map[Incarnation]*meshAsk{}, answering: map[Incarnation]struct{}{},
		calls: map[Incarnation]*meshCall{}, querying: map[Incarnation]struct{}{},
	}
}

// Run implements [Mesh].
func (s *sealedMesh) Run(ctx context.Context, a Answers) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.answers.Wait()
	defer cancel()
	mine := "*." + s.asker.String() + ".*"
	filters := []string{meshSubject + "*", meshSubject + mine, querySubject + "*", querySubject + mine}
	return s.wire.receive(ctx, filters, func(m Message) {
		if _, err := s.keys.open(&m); err != nil {
			return
		}
		if strings.HasPrefix(m.Subject, querySubject) {
			if q, body, ok := readQuery(&m); ok {
				s.query(ctx, q, body, &a)
				return
			}
			s.hearReply(&m)
			return
		}
		if q, ok := readQuestion(&m); ok {
			if q.Asker != s.asker && s.begin(s.answering, q.Nonce, maxAnswering) {
				s.answers.Go(func() {
					defer s.end(s.answering, q.Nonce)
					s.reply(ctx, q, a.Confirm)
				})
			}
			return
		}
		s.hear(&m)
	})
}

// begin reports whether what is asked is to be dealt with: it is not already,
// and not too many are. Under holds those that are.
func (s *sealedMesh) begin(under map[Incarnation]struct{}, nonce Incarnation, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := under[nonce]; ok || len(under) >= most {
		return false
	}
	under[nonce] = struct{}{}
	return true
}

func (s *sealedMesh) end(under map[Incarnation]struct{}, nonce Incarnation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(under, nonce)
}

func (s *sealedMesh) reply(ctx context.Context, q meshQuestion, answer func(context.Context, Question) (Confirmation, bool)) {
	c, ok := answer(ctx, Question{Stream: q.Stream, Seq: q.Seq, Event: q.Event})
	if !ok {
		return
	}
	// To the subject that the seal names: a reply address could be anybody's.
	s.send(answerSubject(q.Stream, q.Asker, q.Nonce), &meshAnswer{
		V: meshVersion, Stream: q.Stream, Seq: q.Seq, Nonce: q.Nonce,
		Node: c.Node, Incarnation: c.Incarnation, Fenced: c.Fenced,
	}, nil)
}

func answerSubject(stream string, asker, nonce Incarnation) string {
	return meshSubject + stream + "." + asker.String() + "." + nonce.String()
}

// send seals and publishes the head as JSON and, if it is not empty, the body
// after a line feed. What cannot be sent now is lost: it is asked again.
func (s *sealedMesh) send(subject string, head any, body []byte) {
	b, err := json.Marshal(head)
	if err != nil {
		panic(err) // the types above always encode
	}
	if len(body) > 0 {
		b = append(append(b, '\n'), body...)
	}
	m := Message{Subject: subject, Payload: b}
	m.Seal = s.keys.seal(&m, nil)
	_ = s.wire.publish(m)
}

// readQuestion reads a message whose seal was verified, and reports whether it
// is a question that this version understands.
func readQuestion(m *Message) (q meshQuestion, ok bool) {
	err := json.Unmarshal(m.Payload, &q)
	return q, err == nil && q.V == meshVersion && m.Subject == meshSubject+q.Stream
}

// hear passes an answer whose seal was verified on to who asked.
func (s *sealedMesh) hear(m *Message) {
	var a meshAnswer
	if json.Unmarshal(m.Payload, &a) != nil || a.V != meshVersion || m.Subject != answerSubject(a.Stream, s.asker, a.Nonce) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ask := s.asks[a.Nonce]; ask != nil && ask.q.Stream == a.Stream && ask.q.Seq == a.Seq {
		ask.confirmed(Confirmation{Node: a.Node, Incarnation: a.Incarnation, Fenced: a.Fenced})
	}
}

// Ask implements [Mesh].
func (s *sealedMesh) Ask(ctx context.Context, q Question, confirmed func(Confirmation)) {
	var nonce Incarnation
	rand.Read(nonce[:])
	s.mu.Lock()
	s.asks[nonce] = &meshAsk{q, confirmed}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asks, nonce)
	}()
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.send(meshSubject+q.Stream, &meshQuestion{V: meshVersion, Stream: q.Stream, Seq: q.Seq, Event: q.Event, Asker: s.asker, Nonce: nonce}, nil)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
