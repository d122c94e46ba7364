package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Headers of a stored or republished message.
const (
	hdrSeal        = "Revocast-Seal"
	hdrTTL         = "Nats-TTL"
	hdrStream      = "Nats-Stream"
	hdrSubject     = "Nats-Subject"
	hdrSequence    = "Nats-Sequence"
	hdrTime        = "Nats-Time-Stamp"
	hdrSource      = "Nats-Stream-Source"
	hdrPending     = "Nats-Num-Pending"
	hdrStatus      = "Status"
	hdrExpStream   = "Nats-Expected-Stream"
	hdrExpSubject  = "Nats-Expected-Last-Subject-Sequence"
	hdrBatchID     = "Nats-Batch-Id"
	hdrBatchSeq    = "Nats-Batch-Sequence"
	hdrBatchCommit = "Nats-Batch-Commit"
)

// Error codes of JetStream that are told apart.
const (
	codeAccountLimit   = 10002
	codeNoPeers        = 10005
	codeServerLimit    = 10023
	codeNoMessage      = 10037
	codeNoSpace        = 10047
	codeTooLarge       = 10054
	codeNameInUse      = 10058
	codeNoStream       = 10059
	codeOtherStream    = 10060
	codeRestoreFailed  = 10062
	codeWrongSequence  = 10071
	codeStandalone     = 10074
	codeStoreFailed    = 10077
	codeHeaderTooLarge = 10097
	codeWrongSequence2 = 10164 // the same under concurrency on a replicated stream
)

// apiError is an answer of JetStream that says no.
type apiError struct {
	Code    int    `json:"code"`
	ErrCode int    `json:"err_code"`
	Text    string `json:"description"`
}

// Error implements error.
func (e *apiError) Error() string {
	return fmt.Sprintf("jetstream: %s (%d)", e.Text, e.ErrCode)
}

// apiCode returns the JetStream error code in err, or 0.
func apiCode(err error) int {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.ErrCode
	}
	return 0
}

// pubAck is the answer to a publish.
type pubAck struct {
	Error  *apiError `json:"error"`
	Stream string    `json:"stream"`
	Seq    uint64    `json:"seq"`
	Batch  string    `json:"batch"`
	Count  uint64    `json:"count"`
}

// parseAck reads the answer to a publish to the stream.
func parseAck(data []byte, stream string) (pubAck, error) {
	var a pubAck
	if err := json.Unmarshal(data, &a); err != nil {
		return pubAck{}, fmt.Errorf("read acknowledgement: %w", err)
	}
	switch {
	case a.Error != nil:
		return pubAck{}, a.Error
	case a.Stream != stream || a.Seq == 0:
		return pubAck{}, fmt.Errorf("read acknowledgement: not one of stream %s", stream)
	}
	return a, nil
}

// natsMsg returns the message as it is published to the stream. The TTL is
// whole seconds in decimal: the very text that the seal covers.
func natsMsg(m *Message, stream string) *nats.Msg {
	h := make(nats.Header, 7)
	h[hdrSeal] = []string{m.Seal}
	h[hdrExpStream] = []string{stream}
	if m.TTL != 0 {
		h[hdrTTL] = []string{strconv.FormatInt(int64(m.TTL/time.Second), 10)}
	}
	return &nats.Msg{Subject: m.Subject, Header: h, Data: m.Payload}
}

// wireOverhead bounds what headers other than the seal add to a message: the
// status line, our five headers with the longest values, and those of a batch.
const wireOverhead = 512

// wireSize bounds what the stream counts against MaxMsgSize.
func wireSize(m *Message) int { return len(m.Payload) + len(m.Seal) + wireOverhead }

// parseTTL reads Nats-TTL as the server does, so that an entry's TTL is the one
// that was honoured. What the server takes for "for ever" is 0.
func parseTTL(text string) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return max(d.Truncate(time.Second), 0)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > int64(UnknownLifetime/time.Second)*100 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// regular reports whether the message's header is exactly what its decoded
// form says: the client library ends at a blank line or a bare line feed where
// the server reads on, so a hostile writer could show the server a TTL that the
// seal does not cover. Nothing in an irregular header is believed.
func regular(m *nats.Msg) bool {
	raw := m.Size() - len(m.Subject) - len(m.Reply) - len(m.Data)
	if raw == 0 {
		return true
	}
	size := len("NATS/1.0\r\n\r\n")
	for k, vs := range m.Header {
		for _, v := range vs {
			size += len(k) + len(": ") + len(v) + len("\r\n")
		}
	}
	return raw == size
}

// sealAndTTL returns the two headers that belong to an event. One that is given
// twice is ambiguous: the seal is then left out, so that nothing verifies.
func sealAndTTL(h nats.Header) (seal string, ttl time.Duration) {
	s, t := h[hdrSeal], h[hdrTTL]
	if len(t) > 0 {
		ttl = parseTTL(t[0])
	}
	if len(s) == 1 && len(t) <= 1 {
		seal = s[0]
	}
	return seal, ttl
}

// lastValue returns the last value of a header: the server appends its own, so
// that an earlier one of the same name is the publisher's.
func lastValue(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// parseCopy reads a republished message or one from a direct get of the
// stream, which carries where it stands in headers that the server appended.
func parseCopy(m *nats.Msg, stream string) (Entry, bool) {
	if !regular(m) || lastValue(m.Header, hdrStream) != stream {
		return Entry{}, false
	}
	seq, err := strconv.ParseUint(lastValue(m.Header, hdrSequence), 10, 64)
	if err != nil || seq == 0 {
		return Entry{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, lastValue(m.Header, hdrTime))
	if err != nil {
		return Entry{}, false
	}
	e := Entry{Seq: seq, Time: at.UTC()}
	e.Subject, e.Payload = lastValue(m.Header, hdrSubject), m.Data
	e.Seal, e.TTL = sealAndTTL(m.Header)
	return e, true
}

// delivery is where a message stands that a consumer delivered.
type delivery struct {
	seq, consumerSeq, pending uint64
	time                      time.Time
}

// parseDelivery reads the reply subject of a delivered message:
// $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream
// sequence>.<consumer sequence>.<ns>.<pending>[.<token>].
func parseDelivery(reply string) (d delivery, ok bool) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return d, false
	}
	skip := 3 // stream, consumer, delivered
	if n := strings.Count(rest, ".") + 1; n >= 9 {
		skip = 5
	} else if n != 7 {
		return d, false
	}
	for range skip {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var num [4]uint64
	for i := range num {
		var text string
		text, rest, _ = strings.Cut(rest, ".")
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return d, false
		}
		num[i] = v
	}
	return delivery{seq: num[0], consumerSeq: num[1], pending: num[3], time: time.Unix(0, int64(num[2])).UTC()}, true
}

// deliveredEntry returns the entry that a consumer delivered.
func deliveredEntry(m *nats.Msg, d delivery) Entry {
	e := Entry{Seq: d.seq, Time: d.time}
	e.Subject, e.Payload = m.Subject, m.Data
	if regular(m) {
		e.Seal, e.TTL = sealAndTTL(m.Header)
	}
	return e
}

// storedMsg is a message as the stream's leader returns it.
type storedMsg struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// entry reads the header by hand and strictly, for it is the fallback for
// headers that the client library cannot read.
func (s *storedMsg) entry() Entry {
	e := Entry{Seq: s.Seq, Time: s.Time.UTC()}
	e.Subject, e.Payload = s.Subject, s.Data
	if h, ok := parseHeader(s.Header); ok {
		e.Seal, e.TTL = sealAndTTL(h)
	}
	return e
}

// parseHeader reads "NATS/1.0", lines of "Key: value" and a blank line, each
// ended by CR LF, and refuses all else.
func parseHeader(b []byte) (nats.Header, bool) {
	rest, ok := bytes.CutPrefix(b, []byte("NATS/1.0\r\n"))
	if !ok {
		return nil, false
	}
	h := make(nats.Header)
	for {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok || bytes.IndexByte(line, '\n') >= 0 {
			return nil, false
		}
		if len(line) == 0 {
			return h, len(after) == 0
		}
		k, v, ok := bytes.Cut(line, []byte(": "))
		if !ok || len(k) == 0 {
			return nil, false
		}
		h[string(k)] = append(h[string(k)], string(v))
		rest = after
	}
}
