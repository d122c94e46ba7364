package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ConfigNumber is the number of the stream CONFIG. Regions count from 2.
const ConfigNumber uint8 = 1

const (
	// defaultTimeout bounds a call whose context has no deadline.
	defaultTimeout = 5 * time.Second
	// attemptTimeout bounds one request. A dead stream answers nothing at all.
	attemptTimeout = 2 * time.Second
	// backoffMin and backoffMax bound the pause between two attempts.
	backoffMin = 50 * time.Millisecond
	backoffMax = 250 * time.Millisecond
)

// ErrNoStream is returned by Open for a stream that does not exist.
var ErrNoStream = errors.New("the stream does not exist")

// StreamConfig says which stream Open opens, and what is known of it.
type StreamConfig struct {
	// Region names the stream; ConfigRegion is CONFIG. Required.
	Region string
	// Cluster is the id of the cluster it must belong to. Empty accepts any
	// and reports it: only for a node that has not known a cluster before.
	Cluster string
	// Epoch is the epoch it must have. Empty accepts any and reports it.
	Epoch string
	// Number is the number it must have. 0 accepts any and reports it.
	Number uint8
	// Replicas is how many copies it must have. 0 accepts what it has.
	Replicas int
	// Domain is the stream's JetStream domain. Empty is the connection's own.
	Domain string
}

// JetStream is the Log on a JetStream stream. The connection remains its
// owner's, who closes it after the last call has returned.
type JetStream struct {
	api     jsAPI
	name    string // of the stream
	region  string
	cluster string
	epoch   string
	number  uint8
	// replicated streams batch by themselves: no group commit.
	replicated bool
	maxMsg     int // bytes of headers and payload
	metrics    logMetrics
	group      group

	mu        sync.Mutex  // guards what follows
	followers []*follower // the running ones
	created   time.Time

	// dropLive, for tests, reports whether a live message is to be lost.
	dropLive func(seq uint64) bool
}

// streamName returns the name of the region's stream.
func streamName(region string) string {
	if region == ConfigRegion {
		return "CONFIG"
	}
	return "EV_" + region
}

// Open returns the log of the region's stream. It creates nothing and changes
// nothing: a stream that is missing is ErrNoStream, one with other settings or
// another identity a *MismatchError.
func Open(ctx context.Context, nc *nats.Conn, c StreamConfig) (*JetStream, error) {
	if !ValidName(c.Region) && c.Region != ConfigRegion {
		return nil, fmt.Errorf("open stream: bad region %q", c.Region)
	}
	api, err := newAPI(nc, c.Domain)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	j := &JetStream{api: api, name: streamName(c.Region), region: c.Region}
	info, err := api.config(ctx, j.name)
	switch {
	case apiCode(err) == codeNoStream:
		return nil, fmt.Errorf("open stream %s: %w; a new cluster is made with --init, which a cluster that has lost its log must not be", j.name, ErrNoStream)
	case err != nil:
		return nil, fmt.Errorf("open stream %s: %w", j.name, err)
	}
	if domain, ok := info.Config.Metadata[metaMirror]; ok && info.Config.Mirror != nil {
		return nil, fmt.Errorf("open stream %s: %w, in domain %s", j.name, ErrMirror, domain)
	}
	if err := checkStream(info.Config, c); err != nil {
		return nil, err
	}
	number, _ := strconv.ParseUint(info.Config.Metadata[metaNumber], 10, 8)
	j.cluster, j.epoch, j.number = info.Config.Metadata[metaCluster], info.Config.Metadata[metaEpoch], uint8(number)
	j.created, j.maxMsg = info.Created, int(info.Config.MaxMsgSize)
	j.replicated = info.Config.Replicas > 1
	return j, nil
}

// Region implements [Log].
func (j *JetStream) Region() string { return j.region }

// Number implements [Log].
func (j *JetStream) Number() uint8 { return j.number }

// Cluster returns the id of the cluster the stream belongs to.
func (j *JetStream) Cluster() string { return j.cluster }

// Epoch returns what tells this stream from an earlier one of the same name.
func (j *JetStream) Epoch() string { return j.epoch }

// Created returns when the stream was made, by its server's clock.
func (j *JetStream) Created() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.created
}

// isMade notes when the stream was made, and reports whether that is news.
func (j *JetStream) isMade(at time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	news := !at.Equal(j.created)
	j.created = at
	return news
}

// Info implements [Log].
func (j *JetStream) Info(ctx context.Context) (Info, error) {
	s, err := j.api.info(ctx, j.name)
	if err != nil {
		return Info{}, fmt.Errorf("ask stream %s: %w", j.name, err)
	}
	return Info{
		FirstSeq: s.State.FirstSeq, LastSeq: s.State.LastSeq,
		Bytes: s.State.Bytes, MaxBytes: uint64(max(s.Config.MaxBytes, 0)),
	}, nil
}

// Last implements [Log]. The subject is exact; one with wildcards is refused.
func (j *JetStream) Last(ctx context.Context, subject string) (Entry, error) {
	if subject == "" || strings.ContainsAny(subject, "*> \t\r\n") {
		return Entry{}, fmt.Errorf("read last event: not a subject: %q", subject)
	}
	e, err := j.api.get(ctx, j.name, getRequest{LastFor: subject})
	if err != nil {
		return Entry{}, fmt.Errorf("read last event of %s: %w", subject, err)
	}
	return e, nil
}

// jsAPI asks JetStream of one domain.
type jsAPI struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	prefix string // of its subjects, "$JS.API." or "$JS.<domain>.API."
}

func newAPI(nc *nats.Conn, domain string) (jsAPI, error) {
	if domain == "" {
		js, err := jetstream.New(nc)
		return jsAPI{nc: nc, js: js, prefix: "$JS.API."}, err
	}
	js, err := jetstream.NewWithDomain(nc, domain)
	return jsAPI{nc: nc, js: js, prefix: "$JS." + domain + ".API."}, err
}

// once sends one request. A refusal of JetStream is an *apiError.
func (a jsAPI) once(ctx context.Context, verb string, req, resp any) error {
	return a.within(ctx, attemptTimeout, verb, req, resp)
}

// within is once for a request that may take longer.
func (a jsAPI) within(ctx context.Context, limit time.Duration, verb string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, err := a.nc.RequestWithContext(ctx, a.prefix+verb, body)
	if err != nil {
		return explain(a.nc, a.prefix+verb, err)
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if err := json.Unmarshal(m.Data, resp); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// ask repeats a reading request until an answer comes or ctx ends.
func (a jsAPI) ask(ctx context.Context, verb string, req, resp any) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	pause := backoff{}
	for {
		err := a.once(ctx, verb, req, resp)
		if err == nil || !transient(err) {
			return err
		}
		if !pause.wait(ctx) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

// streamState is the part of a stream's info that following needs.
type streamState struct {
	Created time.Time `json:"created"`
	Config  struct {
		MaxBytes int64             `json:"max_bytes"`
		Metadata map[string]string `json:"metadata"`
	} `json:"config"`
	State struct {
		Bytes    uint64 `json:"bytes"`
		FirstSeq uint64 `json:"first_seq"`
		LastSeq  uint64 `json:"last_seq"`
	} `json:"state"`
	Cluster *struct {
		Leader string `json:"leader"`
	} `json:"cluster"`
}

func (a jsAPI) info(ctx context.Context, stream string) (streamState, error) {
	var s streamState
	err := a.ask(ctx, "STREAM.INFO."+stream, struct{}{}, &s)
	return s, err
}

// config returns the stream's whole configuration.
func (a jsAPI) config(ctx context.Context, stream string) (jetstream.StreamInfo, error) {
	var s jetstream.StreamInfo
	err := a.ask(ctx, "STREAM.INFO."+stream, struct{}{}, &s)
	return s, err
}

// getRequest asks the stream's leader for one message.
type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
}

// get reads one message from the stream's leader, or ErrNotFound.
func (a jsAPI) get(ctx context.Context, stream string, req getRequest) (Entry, error) {
	var resp struct {
		Message storedMsg `json:"message"`
	}
	switch err := a.ask(ctx, "STREAM.MSG.GET."+stream, req, &resp); {
	case apiCode(err) == codeNoMessage:
		return Entry{}, ErrNotFound
	case err != nil:
		return Entry{}, err
	case resp.Message.Seq == 0:
		return Entry{}, errors.New("decode answer: no message in it")
	}
	return resp.Message.entry(), nil
}

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	if e, ok := errors.AsType[*apiError](err); ok {
		return passing(e.Code)
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return passing(e.Code)
	}
	for _, fatal := range []error{
		nats.ErrConnectionClosed, nats.ErrConnectionDraining, nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrInvalidMsg,
		nats.ErrHeadersNotSupported, ErrDenied,
	} {
		if errors.Is(err, fatal) {
			return false
		}
	}
	return true
}

// passing reports whether the status says nothing against the request itself.
func passing(code int) bool { return code >= 500 || code == 429 || code == 408 }

// bounded gives ctx the default deadline if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// backoff is the growing pause between attempts. Its zero value is ready.
type backoff struct{ next time.Duration }

// wait pauses and reports whether ctx still goes on.
func (b *backoff) wait(ctx context.Context) bool {
	d := max(b.next, backoffMin)
	b.next = min(2*d, backoffMax)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
