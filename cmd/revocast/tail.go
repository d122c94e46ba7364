package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
)

type eventsCmd struct {
	Tail eventsTail `cmd:"" help:"Print the events of the log, private parts decrypted, tokens and signing keys left out."`
}

type eventsTail struct {
	natsFlags      `embed:""`
	Data           string   `placeholder:"DIR" default:"revocast-data" help:"Data directory: of a stopped node, to read its log; with --nats for the cluster key and what it knows of the streams (default: ./revocast-data)."`
	ClusterKeyFile string   `placeholder:"FILE" help:"File with the cluster key (default: cluster.key in the data directory, or REVOCAST_CLUSTER_KEY)."`
	Region         string   `placeholder:"NAME" help:"Region whose stream is read (default: that of the data directory)."`
	From           string   `env:"-" filled:"" placeholder:"POSITION" help:"Where to begin, such as local:0:1234: only the streams it names (default: all, from their beginning)."`
	Kind           []string `env:"-" filled:"" placeholder:"KIND" help:"Only these kinds (default: all but reg, hb and snap, which nodes write about themselves)."`
	Once           bool     `env:"-" help:"End when everything there is was printed. Implied for a stopped node."`
	JSON           bool     `name:"json" env:"-" help:"Print a JSON object a line."`
}

// Run implements the command.
func (t *eventsTail) Run(e *env) error {
	if err := t.check(); err != nil {
		return err
	}
	from, err := t.positions()
	if err != nil {
		return err
	}
	for _, k := range t.Kind {
		if !slices.Contains(allKinds, events.Kind(k)) {
			return &usageError{fmt.Errorf("--kind %q: want some of %v", k, allKinds)}
		}
	}
	logs, keys, done, err := t.open(e.ctx)
	if err != nil {
		return err
	}
	defer done()
	p := &eventPrinter{out: e.stdout, keys: keys, kinds: t.Kind, json: t.JSON}
	once := t.Once || t.Nats == ""
	g, ctx := errgroup.WithContext(e.ctx)
	if once {
		g.SetLimit(1) // one stream after the other
	}
	for _, l := range logs {
		seq, named := from[l.Region()]
		if len(from) > 0 && !named {
			continue
		}
		g.Go(func() error { return p.follow(ctx, l, seq, once) })
	}
	return g.Wait()
}

// allKinds are the kinds that can be asked for.
var allKinds = []events.Kind{
	events.KindState, events.KindTouch, events.KindRevoke, events.KindAll, events.KindExpire, events.KindApp, events.KindKey, events.KindAPIKey,
	events.KindSetting, events.KindWork, events.KindRegion, events.KindNode, events.KindBeat, events.KindMarker,
}

// positions returns the sequence from which each named stream is read. The
// generation says nothing to a reader of the log as it is now.
func (t *eventsTail) positions() (map[string]uint64, error) {
	if t.From == "" {
		return nil, nil
	}
	r, err := events.ParseRevision(t.From)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--from: %w", err)}
	}
	from := map[string]uint64{}
	for _, p := range r {
		from[p.Stream] = p.Seq
	}
	return from, nil
}

// open returns the streams to read and the keys that open them: those of a
// stopped node's data directory, or of a NATS server.
func (t *eventsTail) open(ctx context.Context) ([]events.Log, *events.ClusterKeys, func(), error) {
	dir := dataAt(t.Data)
	if t.Nats == "" {
		s, err := openStore(ctx, storeConfig{dir: dir, region: t.Region, keyFile: t.ClusterKeyFile, log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, nil, err
		}
		return []events.Log{s.settings, s.home}, s.keys, s.Close, nil
	}
	st, err := dir.readState()
	if err != nil {
		return nil, nil, nil, err
	}
	region := t.Region
	if st != nil && (region == "" || region == st.Region) {
		region = st.Region
	} else {
		st = new(state) // nothing is known
	}
	if region == "" {
		return nil, nil, nil, &usageError{errors.New("which region? give it with --region, or the node's data directory with --data")}
	}
	keys, err := dir.clusterKeys(t.ClusterKeyFile, false)
	if err != nil {
		return nil, nil, nil, err
	}
	nc, err := events.Connect(t.connection("revocast events tail", nil, nil))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	var logs []events.Log
	for _, r := range []string{events.ConfigRegion, region} {
		l, err := events.Open(ctx, nc, st.stream(r))
		if err != nil {
			nc.Close()
			return nil, nil, nil, err
		}
		logs = append(logs, l)
	}
	return logs, keys, nc.Close, nil
}

// eventPrinter prints records as lines.
type eventPrinter struct {
	out   io.Writer
	keys  *events.ClusterKeys
	kinds []string // nil: all that are not about nodes
	json  bool

	mu sync.Mutex // guards out
}

// follow prints the log from seq on, with once until what it holds now was
// printed.
func (p *eventPrinter) follow(ctx context.Context, l events.Log, seq uint64, once bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := events.Follow{From: seq, Apply: func(e events.Entry) error {
		return p.print(l.Region(), p.keys.Decode(l.Number(), e), e)
	}}
	if once {
		f.CaughtUp = cancel
	}
	if err := l.Follow(ctx, f); err != nil {
		return fmt.Errorf("read stream %s: %w", l.Region(), err)
	}
	return nil
}

func (p *eventPrinter) wants(k events.Kind) bool {
	if len(p.kinds) > 0 {
		return slices.Contains(p.kinds, string(k))
	}
	return k != events.KindNode && k != events.KindBeat && k != events.KindMarker
}

// line is an event as it is printed.
type line struct {
	Position string          `json:"position"` // stream:sequence
	At       time.Time       `json:"at"`
	Subject  string          `json:"subject"`
	Kind     events.Kind     `json:"kind"`
	Trust    string          `json:"trust"`
	Event    json.RawMessage `json:"event,omitempty"`
	Private  any             `json:"private,omitempty"`
}

func (p *eventPrinter) print(region string, r events.Record, e events.Entry) error {
	if !p.wants(r.Subject.Kind) {
		return nil
	}
	l := line{
		Position: region + ":" + strconv.FormatUint(r.Seq, 10), At: r.Time.UTC().Truncate(time.Millisecond),
		Subject: e.Subject, Kind: r.Subject.Kind, Trust: r.Trust.String(),
	}
	if r.Event != nil {
		l.Event = e.Payload
		var err error
		if l.Private, err = p.private(r); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		b, err := json.Marshal(l)
		if err != nil {
			return fmt.Errorf("print event %s: %w", l.Position, err)
		}
		_, err = fmt.Fprintf(p.out, "%s\n", b)
		return err
	}
	detail := []string{printable(string(l.Event))}
	if r.Event == nil {
		detail = []string{"(" + l.Trust + ")", printable(e.Subject)}
	}
	if l.Private != nil {
		b, err := json.Marshal(l.Private)
		if err != nil {
			return fmt.Errorf("print event %s: %w", l.Position, err)
		}
		detail = append(detail, printable(string(b)))
	}
	_, err := fmt.Fprintf(p.out, "%-14s %s %-6s %s\n", l.Position, stamp(l.At), l.Kind, strings.Join(detail, " "))
	return err
}

// private returns the private part without what would let its reader in.
func (p *eventPrinter) private(r events.Record) (any, error) {
	if r.Sealed.Empty() {
		return nil, nil
	}
	if r.Subject.Kind != events.KindState {
		return "[private key]", nil
	}
	b, err := p.keys.OpenVerified(r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("open event %d: %w", r.Seq, err)
	}
	var shown map[string]any
	if err := json.Unmarshal(b, &shown); err != nil {
		return nil, fmt.Errorf("open event %d: %w", r.Seq, err)
	}
	if _, ok := shown["token"]; ok {
		shown["token"] = "[token]"
	}
	return shown, nil
}
