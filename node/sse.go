package node

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

const (
	// feedBeat is the time between two heartbeats of a feed.
	feedBeat = 5 * time.Second
	// feedWriteTimeout is how long a client may take nothing of what is written to it.
	feedWriteTimeout = 20 * time.Second
	// feedRetry is how long a client waits before it connects again, in ms.
	feedRetry = 1000
)

// Events of a feed that are about the feed.
const (
	sseHello     = "hello"
	sseHeartbeat = "heartbeat"
	sseResync    = "resync"
)

// Why a feed has to begin anew.
const (
	resyncSlow    = "slow"    // it goes on behind its last id
	resyncRewound = "rewound" // the log went backwards
	resyncGone    = "gone"
)

// sseWriter writes server-sent events (HTML, section 9.2) to one client. What is
// written waits for flush.
type sseWriter struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// newSSEWriter begins the answer.
func newSSEWriter(w http.ResponseWriter) *sseWriter {
	s := &sseWriter{w: w, rc: http.NewResponseController(w)}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	// The server's limits are for answers that end. Where they cannot be lifted, as
	// in tests, there are none.
	_ = s.rc.SetReadDeadline(time.Time{})
	w.WriteHeader(http.StatusOK)
	s.buf.WriteString("retry: " + strconv.Itoa(feedRetry) + "\n\n")
	return s
}

// event adds an event. Its data is one line, as JSON is; an empty id leaves the
// client's last one.
func (s *sseWriter) event(name, id string, data []byte) {
	if id != "" {
		s.buf.WriteString("id: " + id + "\n")
	}
	s.buf.WriteString("event: " + name + "\ndata: ")
	s.buf.Write(data)
	s.buf.WriteString("\n\n")
}

// value is event of something of package api.
func (s *sseWriter) value(name, id string, data any) error {
	b, err := marshal(data)
	if err != nil {
		return err
	}
	s.event(name, id, b)
	return nil
}

// flush sends what was added. An error means that the client is gone.
func (s *sseWriter) flush() error {
	if s.buf.Len() == 0 {
		return nil
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(feedWriteTimeout))
	_, err := s.w.Write(s.buf.Bytes())
	if s.buf.Reset(); err != nil {
		return err
	}
	return s.rc.Flush()
}
