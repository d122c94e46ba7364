package events

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ArchiveConfig says which archive OpenArchive opens.
type ArchiveConfig struct {
	// Region whose archive it is. Required.
	Region string
	// Cluster is the id of the cluster it must belong to. Empty accepts any.
	Cluster string
	// Domain is its JetStream domain. Empty is the connection's own.
	Domain string
}

// JetStreamArchive is the Archive in the stream AUDIT_<region>. It is safe for
// concurrent use; the connection remains its owner's.
type JetStreamArchive struct {
	api  jsAPI
	name string
}

// archiveName returns the name of the region's archive.
func archiveName(region string) string { return "AUDIT_" + region }

// OpenArchive returns the archive of the region. A missing one is ErrNoStream.
func OpenArchive(ctx context.Context, nc *nats.Conn, c ArchiveConfig) (*JetStreamArchive, error) {
	if !ValidName(c.Region) {
		return nil, fmt.Errorf("open archive: bad region %q", c.Region)
	}
	api, err := newAPI(nc, c.Domain)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	a := &JetStreamArchive{api: api, name: archiveName(c.Region)}
	info, err := api.config(ctx, a.name)
	switch {
	case apiCode(err) == codeNoStream:
		return nil, fmt.Errorf("open archive %s: %w", a.name, ErrNoStream)
	case err != nil:
		return nil, fmt.Errorf("open archive %s: %w", a.name, err)
	}
	var k checker
	k.is(metaFormat, info.Config.Metadata[metaFormat], streamFormat, remedyMade)
	if c.Cluster != "" {
		k.is(metaCluster, info.Config.Metadata[metaCluster], c.Cluster, remedyOther)
	}
	if len(k.found) > 0 {
		return nil, &MismatchError{Stream: a.name, Differences: k.found}
	}
	return a, nil
}

// RemakeArchive makes the archive of the log's region again after its servers
// lost it: on one copy it is not synced, so a power cut may take a young one
// whole. It takes from its streams what they still hold. Join is the JetStream
// domain of CONFIG, empty for the log's own; maxBytes is its budget, 0 that of
// the log. An archive that is there is left as it is.
//
// It takes a NATS user who may make streams; another one gets ErrDenied.
func (j *JetStream) RemakeArchive(ctx context.Context, join string, maxBytes int64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := j.api.config(ctx, j.name)
	if err != nil {
		return fmt.Errorf("make the archive of %s again: %w", j.name, err)
	}
	if maxBytes == 0 {
		maxBytes = s.Config.MaxBytes
	}
	return createStream(ctx, j.api, auditStream(ClusterConfig{
		Cluster: j.cluster, Region: j.region, Replicas: s.Config.Replicas, AuditMaxBytes: max(maxBytes, 0),
		Retention: DefaultRetention, Join: join,
	}, j.number))
}

// Resume looks whether the log went backwards behind the archive's back, as when
// its server was started on an older copy of its store: the archive would wait
// until the log has passed what it took from it last, and miss all until then.
// It makes it go on with what the log took since, and reports whether it did.
// What it takes twice has one nonce and counts once.
//
// A stream that was deleted and made again needs none of this: servers see that
// it is another, within half a minute. To make the archive go on takes a NATS
// user who may update streams; another one gets ErrDenied.
func (a *JetStreamArchive) Resume(ctx context.Context, log *JetStream) (resumed bool, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if resumed, err = a.resume(ctx, log); err != nil {
		return false, fmt.Errorf("resume %s: %w", a.name, err)
	}
	return resumed, nil
}

func (a *JetStreamArchive) resume(ctx context.Context, log *JetStream) (resumed bool, err error) {
	var newest struct {
		Message storedMsg `json:"message"`
	}
	err = a.api.ask(ctx, "STREAM.MSG.GET."+a.name, getRequest{LastFor: "ev." + log.region + ".>"}, &newest)
	if apiCode(err) == codeNoMessage {
		return false, nil
	} else if err != nil {
		return false, err
	}
	h, _ := parseHeader(newest.Message.Header) // without one the origin is unknown, 0
	state, err := log.Info(ctx)
	if err != nil || origin(h) <= state.LastSeq {
		return false, err
	}
	s, err := a.api.config(ctx, a.name)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(s.Config.Sources, func(src *jetstream.StreamSource) bool { return src.Name == log.name })
	if i < 0 {
		return false, fmt.Errorf("it does not take from %s", log.name)
	}
	// Until the server has begun with the old source, what it still asks for on
	// behalf of that can take the place of what it asks for on behalf of the new
	// one: both go by one name. The archive then waits all the same.
	if err := a.await(ctx, func(src *jetstream.StreamSourceInfo) bool { return src.Name == log.name }); err != nil {
		return false, err
	}
	// The server knows a source by its filters: with one more, of a kind that no
	// event has, it is a new one, which begins where it is told.
	from := source(log.region, sessionKinds...)
	from.External, from.OptStartTime = s.Config.Sources[i].External, &s.State.LastTime
	from.SubjectTransforms = append(from.SubjectTransforms, jetstream.SubjectTransformConfig{
		Source: "ev." + log.region + ".*.*.*.after" + strconv.FormatUint(s.State.LastSeq, 10),
	})
	s.Config.Sources[i] = from
	return true, a.api.once(ctx, "STREAM.UPDATE."+a.name, s.Config, new(json.RawMessage))
}

// Await returns once the archive takes what is appended to its streams, which
// begins a moment after the server does. A state that is replaced before then
// is missing from the history, with a gap that names it.
func (a *JetStreamArchive) Await(ctx context.Context) error {
	return a.await(ctx, func(*jetstream.StreamSourceInfo) bool { return true })
}

// await returns once the archive takes what is appended to the streams that
// matter.
func (a *JetStreamArchive) await(ctx context.Context, matters func(*jetstream.StreamSourceInfo) bool) error {
	for {
		s, err := a.api.config(ctx, a.name)
		silent := func(src *jetstream.StreamSourceInfo) bool { return src.Active < 0 && matters(src) }
		if err == nil && !slices.ContainsFunc(s.Sources, silent) {
			return nil
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("await %s: %w", a.name, cmp.Or(err, ctx.Err()))
		}
	}
}

// History implements [Archive]. It ends with what the archive held when it
// reached the end; an event is in the archive a moment after it is in its
// stream. Filters that overlap cost a reading of all that lies between them.
func (a *JetStreamArchive) History(ctx context.Context, filters []string, fn func(Archived) bool) error {
	if len(filters) == 0 {
		return nil
	}
	wide := disjoint(filters)
	err := a.api.read(ctx, a.name, readConfig{from: 1, filters: wide}, func(d delivery, m *nats.Msg) (bool, error) {
		if !slices.ContainsFunc(filters, func(f string) bool { return within(m.Subject, f) }) {
			return true, nil
		}
		return fn(Archived{Entry: deliveredEntry(m, d), Origin: origin(m.Header)}), nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", a.name, err)
	}
	return nil
}

// origin reads the sequence in the stream an archived message comes from:
// Nats-Stream-Source is "<stream> <sequence> ...". The server writes it and
// refuses one from a publisher. 0 is unknown.
func origin(h nats.Header) uint64 {
	_, rest, _ := strings.Cut(lastValue(h, hdrSource), " ")
	text, _, _ := strings.Cut(rest, " ")
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// disjoint returns filters that match at least what the given ones match, no
// two of which overlap: the server refuses those. Two that overlap in part are
// replaced by one that covers both.
func disjoint(filters []string) []string {
	out := slices.Compact(slices.Sorted(slices.Values(filters)))
	for i := 0; i < len(out); i++ {
		for k := 0; k < i; k++ {
			if !overlap(out[k], out[i]) {
				continue
			}
			both := cover(out[k], out[i])
			out = slices.Delete(slices.Delete(out, i, i+1), k, k+1)
			out = append(out, both)
			i = -1 // the new one may overlap any other
			break
		}
	}
	return out
}

// overlap reports whether some subject matches both filters.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		switch {
		case as[i] == ">" || bs[i] == ">":
			return true
		case as[i] != bs[i] && as[i] != "*" && bs[i] != "*":
			return false
		}
	}
	return len(as) == len(bs)
}

// cover returns a filter that matches all that either matches; one of them, if
// the other lies within it.
func cover(a, b string) string {
	switch {
	case within(a, b):
		return b
	case within(b, a):
		return a
	}
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	var out []string
	for i := range min(len(as), len(bs)) {
		switch {
		case as[i] == ">" || bs[i] == ">":
			return strings.Join(append(out, ">"), ".")
		case as[i] == bs[i]:
			out = append(out, as[i])
		default:
			out = append(out, "*")
		}
	}
	if len(as) != len(bs) {
		out[len(out)-1] = ">"
	}
	return strings.Join(out, ".")
}

// within reports whether each subject that matches the filter f matches o.
func within(f, o string) bool {
	fs, os := strings.Split(f, "."), strings.Split(o, ".")
	for i, t := range os {
		switch {
		case t == ">":
			return len(fs) > i
		case i >= len(fs) || fs[i] == ">":
			return false
		case t != "*" && t != fs[i]:
			return false
		}
	}
	return len(fs) == len(os)
}
