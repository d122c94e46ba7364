package events

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Keys of a stream's metadata.
const (
	metaFormat  = "revocast.format"
	metaCluster = "revocast.cluster"
	metaEpoch   = "revocast.epoch"
	metaNumber  = "revocast.number"
)

// streamFormat is the value of metaFormat this code reads.
const streamFormat = "1"

// maxMsgSize is the stream's limit for headers and payload of one message: an
// event, the largest sealed private part in base64, and the other headers.
const maxMsgSize = 32 << 10

// Difference is one setting of a stream that is not what it must be.
type Difference struct {
	Setting, Found, Want string
	// Remedy says what to do.
	Remedy string
}

// MismatchError says in one line that a stream is not the one wanted, or has
// settings under which the promises of this system do not hold.
type MismatchError struct {
	Stream      string
	Differences []Difference
}

// Error implements error.
func (e *MismatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stream %s is not usable: ", e.Stream)
	for i, d := range e.Differences {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s is %s, want %s (%s)", d.Setting, d.Found, d.Want, d.Remedy)
	}
	return b.String()
}

// The remedies.
const (
	remedySet   = "change it back on the NATS server"
	remedyMade  = "it was made by something else: use another NATS server or account, or move that stream away"
	remedyOther = "connect to the cluster this data directory belongs to, or use another data directory"
	remedyEpoch = "the stream was deleted and made again: restore it from a backup, or begin a new cluster in a new data directory"
	remedyNewer = "run a version of revocast that reads it"
	remedyR     = "change num_replicas of the stream, or the setting of this node"
)

// checker collects differences.
type checker struct{ found []Difference }

func (c *checker) is(setting string, found, want any, remedy string) {
	f, w := text(found), text(want)
	if f != w {
		c.found = append(c.found, Difference{Setting: setting, Found: f, Want: w, Remedy: remedy})
	}
}

// phrase is a wanted value in words.
type phrase string

// text is a value as it stands in an error line.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case []string:
		return "[" + strings.Join(v, " ") + "]"
	}
	return fmt.Sprint(v)
}

// checkStream compares a stream with what DESIGN.md ("Stream") demands and with
// what the caller knows of it.
func checkStream(s jetstream.StreamConfig, c StreamConfig) error {
	var k checker
	k.identity(s, c)
	k.settings(s, c.Region)
	if c.Replicas != 0 {
		k.is("num_replicas", s.Replicas, c.Replicas, remedyR)
	}
	k.absent(s)
	if len(k.found) > 0 {
		return &MismatchError{Stream: s.Name, Differences: k.found}
	}
	return nil
}

func (k *checker) identity(s jetstream.StreamConfig, c StreamConfig) {
	format := s.Metadata[metaFormat]
	if format == "" {
		k.is(metaFormat, format, streamFormat, remedyMade)
		return
	}
	k.is(metaFormat, format, streamFormat, remedyNewer)
	if c.Cluster != "" {
		k.is(metaCluster, s.Metadata[metaCluster], c.Cluster, remedyOther)
	}
	if c.Epoch != "" {
		k.is(metaEpoch, s.Metadata[metaEpoch], c.Epoch, remedyEpoch)
	} else if s.Metadata[metaEpoch] == "" {
		k.is(metaEpoch, "", phrase("a random text"), remedyMade)
	}
	found := s.Metadata[metaNumber]
	number, err := strconv.ParseUint(found, 10, 8)
	switch {
	case c.Region == ConfigRegion:
		k.is(metaNumber, found, strconv.Itoa(int(ConfigNumber)), remedyMade)
	case c.Number != 0:
		k.is(metaNumber, found, strconv.Itoa(int(c.Number)), remedyOther)
	case err != nil || number <= uint64(ConfigNumber):
		k.is(metaNumber, found, phrase("2 to 255"), remedyMade)
	}
}

func (k *checker) settings(s jetstream.StreamConfig, region string) {
	k.is("subjects", s.Subjects, []string{"ev." + region + ".>"}, remedyMade)
	k.is("storage", s.Storage, jetstream.FileStorage, remedyMade)
	k.is("retention", s.Retention, jetstream.LimitsPolicy, remedyMade)
	k.is("max_msgs_per_subject", s.MaxMsgsPerSubject, 1, remedySet)
	k.is("allow_msg_ttl", s.AllowMsgTTL, true, remedySet)
	k.is("allow_direct", s.AllowDirect, true, remedySet)
	k.is("allow_atomic", s.AllowAtomicPublish, true, remedySet)
	k.is("deny_delete", s.DenyDelete, true, remedySet)
	k.is("deny_purge", s.DenyPurge, true, remedySet)
	k.is("discard", s.Discard, jetstream.DiscardNew, remedySet)
	if s.MaxBytes <= 0 {
		k.is("max_bytes", s.MaxBytes, phrase("a budget above 0"), remedySet)
	}
	if s.MaxMsgSize != -1 && s.MaxMsgSize < maxMsgSize {
		k.is("max_msg_size", s.MaxMsgSize, maxMsgSize, remedySet)
	}
	republish := ""
	if r := s.RePublish; r != nil {
		republish = r.Source + " to " + r.Destination
		k.is("republish.headers_only", r.HeadersOnly, false, remedySet)
	}
	k.is("republish", republish, "ev.> to live.>", remedySet)
	k.is("persist_mode", s.PersistMode, jetstream.DefaultPersistMode, "async switches the fsync off: make the stream again without it")
}

// absent checks what would let events leave, change or appear on their own.
func (k *checker) absent(s jetstream.StreamConfig) {
	k.is("max_age", s.MaxAge, time.Duration(0), remedySet)
	k.is("max_msgs", max(s.MaxMsgs, -1), -1, remedySet)
	k.is("discard_new_per_subject", s.DiscardNewPerSubject, false, remedySet)
	k.is("allow_rollup_hdrs", s.AllowRollup, false, remedySet)
	k.is("subject_delete_marker_ttl", s.SubjectDeleteMarkerTTL, time.Duration(0), remedySet)
	k.is("allow_msg_counter", s.AllowMsgCounter, false, remedyMade)
	k.is("allow_msg_schedules", s.AllowMsgSchedules, false, remedySet)
	k.is("no_ack", s.NoAck, false, remedySet)
	k.is("sealed", s.Sealed, false, remedyMade)
	k.is("mirror", s.Mirror != nil, false, remedyMade)
	k.is("sources", len(s.Sources), 0, remedyMade)
	k.is("subject_transform", s.SubjectTransform != nil, false, remedySet)
}
