package events

import (
	"bytes"
	"context"
	"encoding/json"
	"time"
)

// Answers are what a Mesh says to others.
type Answers struct {
	// Me is the incarnation of the node that answers.
	Me Incarnation
	// Confirm answers a Question, or returns false to say nothing.
	Confirm func(context.Context, Question) (Confirmation, bool)
	// Queries answer what is asked by Query, by topic. They return the body of
	// the answer, at most MaxQuery bytes, or false to say nothing.
	Queries map[string]func(ctx context.Context, body []byte) ([]byte, bool)
}

// MaxQuery is how long the body of a query or of its answer may be, in bytes: it
// fits, with its envelope, into the 1 MiB that a NATS server takes. What is
// longer is not sent.
const MaxQuery = 704 << 10

const (
	// maxQueries is how many queries a node deals with at a time. Their answers
	// may be large.
	maxQueries = 32
	// querySubject begins the subjects of queries, query.<topic>, and of their
	// answers, query.<topic>.<asker>.<nonce>.
	querySubject = "query."
)

// meshQuery and meshReply begin the payloads, as JSON. A line feed and the body
// follow, as it is: pieces of files are long. The seal binds them to their
// subjects, and the nonce of a reply to one call of Query.
type meshQuery struct {
	V     int         `json:"v"`
	Topic string      `json:"topic"`
	To    Incarnation `json:"to"` // zero: everybody
	Asker Incarnation `json:"asker"`
	Nonce Incarnation `json:"nonce"`
}

type meshReply struct {
	V           int         `json:"v"`
	Topic       string      `json:"topic"`
	Nonce       Incarnation `json:"nonce"`
	Incarnation Incarnation `json:"incarnation"`
}

// meshCall is one call of Query.
type meshCall struct {
	topic string
	to    Incarnation
	heard func(Incarnation, []byte)
}

func replySubject(topic string, asker, nonce Incarnation) string {
	return querySubject + topic + "." + asker.String() + "." + nonce.String()
}

// Query implements [Mesh].
func (s *sealedMesh) Query(ctx context.Context, topic string, to Incarnation, body []byte, heard func(from Incarnation, body []byte)) {
	if len(body) > MaxQuery || !ValidName(topic) {
		<-ctx.Done()
		return
	}
	nonce := NewIncarnation()
	s.mu.Lock()
	s.calls[nonce] = &meshCall{topic, to, heard}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, nonce)
	}()
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.send(querySubject+topic, &meshQuery{V: meshVersion, Topic: topic, To: to, Asker: s.asker, Nonce: nonce}, body)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// readQuery reads a message whose seal was verified, and reports whether it is
// a query that this version understands.
func readQuery(m *Message) (q meshQuery, body []byte, ok bool) {
	head, body, _ := bytes.Cut(m.Payload, []byte("\n"))
	err := json.Unmarshal(head, &q)
	return q, body, err == nil && q.V == meshVersion && m.Subject == querySubject+q.Topic
}

// query has the query answered if it is to this node, which knows its topic.
func (s *sealedMesh) query(ctx context.Context, q meshQuery, body []byte, a *Answers) {
	answer := a.Queries[q.Topic]
	if answer == nil || q.Asker == s.asker || q.To != (Incarnation{}) && q.To != a.Me {
		return
	}
	if !s.begin(s.querying, q.Nonce, maxQueries) {
		return
	}
	s.answers.Go(func() {
		defer s.end(s.querying, q.Nonce)
		body, ok := answer(ctx, body)
		if !ok || len(body) > MaxQuery || ctx.Err() != nil {
			return
		}
		s.send(replySubject(q.Topic, q.Asker, q.Nonce), &meshReply{
			V: meshVersion, Topic: q.Topic, Nonce: q.Nonce, Incarnation: a.Me,
		}, body)
	})
}

// hearReply passes a reply whose seal was verified on to who asked.
func (s *sealedMesh) hearReply(m *Message) {
	var r meshReply
	head, body, _ := bytes.Cut(m.Payload, []byte("\n"))
	if json.Unmarshal(head, &r) != nil || r.V != meshVersion || m.Subject != replySubject(r.Topic, s.asker, r.Nonce) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	call := s.calls[r.Nonce]
	if call != nil && call.topic == r.Topic && (call.to == Incarnation{} || call.to == r.Incarnation) {
		call.heard(r.Incarnation, body)
	}
}
