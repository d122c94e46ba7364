package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/node/api"
)

// importCmd sends sessions of another system to a node.
type importCmd struct {
	remote
	inApp
	File     string        `arg:"" name:"file" help:"File with one session a line (NDJSON), as POST /v1/sessions/import takes it; -: stdin."`
	State    string        `env:"-" placeholder:"FILE" help:"Keep in this file how far it came, and go on from there when it is there (default: none)."`
	Errors   string        `env:"-" placeholder:"FILE" help:"Write to this file, one JSON object a line, what was not imported and why (default: the first 20 are printed)."`
	FromLine int64         `env:"-" placeholder:"N" help:"Begin with this line, the first being 1."`
	Workers  int           `env:"-" default:"2" placeholder:"N" help:"How many chunks are on their way at a time (default: 2)."`
	Chunk    int           `env:"-" default:"20000" placeholder:"N" help:"Lines sent in one request (default: 20000)."`
	Patience time.Duration `env:"-" default:"2m" placeholder:"D" help:"How long to try again while the node does not answer or cannot write (default: 2m)."`
}

// Help is shown by "import --help".
func (*importCmd) Help() string {
	return `Each line is {"token_sha256" or "token", "user_id", "expires_at", "started_at", ...}. Their tokens stay good: nobody has to log in again. Lines that are bad are reported and the rest is imported; then the exit code is 1. The same line again is the same session, so a file can be imported again from any line, and after the command or the node was killed. A session that was revoked since is not brought back.`
}

const (
	// importLineKept is how much of a line is sent: more than a node takes, so that
	// it says that the line is too long.
	importLineKept = 20 << 10
	// importPieceBytes is the most that is sent in one request.
	importPieceBytes = 16 << 20
	// importTimeout bounds one request.
	importTimeout = 10 * time.Minute
	// importShown is how many lines that were not imported are printed without --errors.
	importShown = 20
)

// Run implements the command.
func (c *importCmd) Run(e *env) error {
	if c.Workers < 1 || c.Workers > 64 || c.Chunk < 1 || c.Chunk > 1_000_000 || c.FromLine < 0 || c.Patience < 0 {
		return &usageError{errors.New("want --workers 1 to 64, --chunk 1 to 1000000, --from-line and --patience not below 0")}
	}
	to, err := c.inApp.connectFor(e, &c.remote)
	if err != nil {
		return err
	}
	if to.apiKey == "" {
		return &usageError{errors.New("no API key: set REVOCAST_API_KEY, or run where the node's data directory is, or give it with --data")}
	}
	i := &importer{cmd: c, e: e, to: to, started: time.Now(), told: time.Now()}
	i.http = &http.Client{Timeout: importTimeout, CheckRedirect: to.http.CheckRedirect}
	if err := i.open(); err != nil {
		return err
	}
	defer i.close()
	err = i.run()
	return errors.Join(err, i.report(err))
}

// importer is an import on its way.
type importer struct {
	cmd     *importCmd
	e       *env
	to      *client
	http    *http.Client
	in      *os.File // nil: stdin
	lines   *bufio.Reader
	errors  *os.File // nil: only the first are printed
	shown   int
	state   importState
	begun   int64 // lines that were imported before
	readTo  place // how far it was read; the reader's
	started time.Time
	told    time.Time // when progress was last shown
}

// place is a place in a file: behind a line.
type place struct{ line, offset int64 }

// importState is how far an import came. What it counts twice after it was killed
// is found to exist.
type importState struct {
	V          int              `json:"v"`
	File       string           `json:"file"`
	Size       int64            `json:"size"`
	Head       string           `json:"head_sha256"` // of the first bytes of the file
	Line       int64            `json:"line"`        // last that is settled
	Offset     int64            `json:"offset"`      // behind it
	ErrorsSize int64            `json:"errors_size"` // of the file with what was not imported
	Counts     api.ImportCounts `json:"counts"`
	Revision   string           `json:"revision,omitempty"`
}

// piece is what is sent in one request.
type piece struct {
	first, last int64 // lines
	end         int64 // offset behind the last
	body        []byte
	done        chan struct{}
	counts      api.ImportCounts
	revision    string
	failed      []api.ImportError
	err         error
}

// run sends the file, piece by piece, and notes each that is settled, in order.
func (i *importer) run() error {
	g, ctx := errgroup.WithContext(i.e.ctx)
	pieces := make(chan *piece, i.cmd.Workers-1)
	g.Go(func() error {
		defer close(pieces)
		for {
			p, err := i.next()
			if p == nil || err != nil {
				return err
			}
			select {
			case pieces <- p: // beside those that wait, one is being settled
			case <-ctx.Done():
				return nil
			}
			go func() {
				defer close(p.done)
				p.err = i.send(ctx, p)
			}()
		}
	})
	g.Go(func() error {
		for p := range pieces {
			<-p.done
			if err := i.settle(p); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// next reads the next piece, nil at the end.
func (i *importer) next() (*piece, error) {
	p := &piece{first: i.readTo.line + 1, last: i.readTo.line, end: i.readTo.offset, done: make(chan struct{})}
	var body bytes.Buffer
	for p.last-p.first+1 < int64(i.cmd.Chunk) && body.Len() < importPieceBytes {
		n, err := copyLine(&body, i.lines)
		if n > 0 {
			p.last++
			p.end += n
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", i.cmd.File, err)
		}
	}
	i.readTo = place{p.last, p.end}
	if p.last < p.first {
		return nil, nil
	}
	p.body = body.Bytes()
	return p, nil
}

// copyLine copies the next line, or of one that is too long the beginning, and
// returns how long it is with its end.
func copyLine(to *bytes.Buffer, from *bufio.Reader) (n int64, err error) {
	kept := 0
	for {
		part, err := from.ReadSlice('\n')
		n += int64(len(part))
		if room := importLineKept - kept; len(part) > room {
			part = part[:room]
		}
		kept += len(part)
		to.Write(part)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case n > 0 && (to.Len() == 0 || to.Bytes()[to.Len()-1] != '\n'):
			to.WriteByte('\n')
		}
		return n, err
	}
}

// send imports the piece, again and again while the node cannot.
func (i *importer) send(ctx context.Context, p *piece) error {
	until, pause := time.Now().Add(i.cmd.Patience), time.Second
	for settled := int64(0); ; {
		body := p.body
		for range settled {
			body = body[bytes.IndexByte(body, '\n')+1:]
		}
		line, err := i.post(ctx, p, p.first+settled, body)
		if line > 0 {
			settled += line
			until, pause = time.Now().Add(i.cmd.Patience), time.Second
		}
		if err == nil || !passing(err) || time.Now().Add(pause).After(until) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, 10*time.Second)
	}
}

// passing reports whether the same may succeed in a moment. A full log or memory
// is somebody's to see to.
func passing(err error) bool {
	if failed, ok := errors.AsType[*api.Error](err); ok && (failed.ErrorType == api.LogFull || failed.ErrorType == api.MemoryFull) {
		return false
	}
	return exitCode(err) == exitUnavailable
}

// importAnswer is any line of the answer.
type importAnswer struct {
	Line int64 `json:"line"`
	api.ImportSummary
}

// post sends lines of the piece, from first on, and returns how many are settled.
func (i *importer) post(ctx context.Context, p *piece, first int64, body []byte) (settled int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.to.base+"/v1/sessions/import", bytes.NewReader(body))
	if err != nil {
		return 0, &usageError{fmt.Errorf("--url: %w", err)}
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Authorization", "Bearer "+i.to.apiKey)
	if i.to.named != "" {
		req.Header.Set("X-Revocast-App", i.to.named)
	}
	resp, err := i.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w at %s: %w", errUnreachable, i.to.base, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return 0, fmt.Errorf("%w at %s: %w", errUnreachable, i.to.base, err)
		}
		return 0, i.to.refused(resp, raw)
	}
	var failed []api.ImportError
	for answer := json.NewDecoder(resp.Body); ; {
		var line importAnswer
		if err := answer.Decode(&line); err != nil {
			return 0, fmt.Errorf("%w at %s: the answer broke off: %w", errUnreachable, i.to.base, err)
		}
		switch line.Type {
		case api.ImportLineError:
			failed = append(failed, api.ImportError{
				Type: line.Type, Line: first + line.Line - 1, ErrorType: line.ErrorType, ErrorMessage: line.ErrorMessage, ErrorDetails: line.ErrorDetails,
			})
		case api.ImportLineSummary:
			p.failed = append(p.failed, failed...)
			p.add(&line.ImportSummary)
			if !line.Complete {
				return line.LastLine, &api.Error{StatusCode: http.StatusServiceUnavailable, ErrorType: line.ErrorType, ErrorMessage: line.ErrorMessage, RequestID: line.RequestID}
			}
			return line.LastLine, nil
		}
	}
}

// add counts what the summary says.
func (p *piece) add(s *api.ImportSummary) {
	add(&p.counts, &s.ImportCounts)
	if s.Revision != "" {
		p.revision = s.Revision
	}
}

func add(to, more *api.ImportCounts) {
	to.Imported += more.Imported
	to.Exists += more.Exists
	to.Expired += more.Expired
	to.Ended += more.Ended
	to.Bad += more.Bad
}

// settle notes what became of the piece: first what was not imported, then how far
// it came.
func (i *importer) settle(p *piece) error {
	if p.err != nil {
		return fmt.Errorf("lines %d to %d: %w", p.first, p.last, p.err)
	}
	for _, f := range p.failed {
		if err := i.note(&f); err != nil {
			return err
		}
	}
	s := &i.state
	add(&s.Counts, &p.counts)
	s.Line, s.Offset = p.last, p.end
	if p.revision != "" {
		s.Revision = p.revision
	}
	if i.errors != nil {
		if err := i.errors.Sync(); err != nil {
			return fmt.Errorf("write %s: %w", i.cmd.Errors, err)
		}
		at, err := i.errors.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("write %s: %w", i.cmd.Errors, err)
		}
		s.ErrorsSize = at
	}
	if now := time.Now(); now.Sub(i.told) >= time.Second {
		i.told = now
		fmt.Fprintf(i.e.stderr, "%d lines, %.0f/s\n", s.Line, float64(s.Line-i.begun)/now.Sub(i.started).Seconds())
	}
	return i.writeState()
}

// note writes what was not imported.
func (i *importer) note(f *api.ImportError) error {
	if i.errors != nil {
		b, err := json.Marshal(f)
		if err == nil {
			_, err = i.errors.Write(append(b, '\n'))
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", i.cmd.Errors, err)
		}
		return nil
	}
	if i.shown++; i.shown <= importShown && !i.to.json {
		fmt.Fprintf(i.e.stdout, "line %d: %s: %s\n", f.Line, f.ErrorType, printable(f.ErrorMessage))
	}
	return nil
}

// report prints what became of the lines, and fails when some are bad.
func (i *importer) report(failed error) error {
	s := &i.state
	raw, err := json.Marshal(&api.ImportSummary{
		Type: api.ImportLineSummary, Complete: failed == nil, LastLine: s.Line, ImportCounts: s.Counts, Revision: s.Revision,
	})
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	err = i.to.show(raw, func(w io.Writer) {
		row(w, "imported", s.Counts.Imported)
		row(w, "existed", s.Counts.Exists)
		row(w, "expired", s.Counts.Expired)
		row(w, "ended", s.Counts.Ended)
		row(w, "bad", s.Counts.Bad)
		row(w, "last line", s.Line)
	})
	switch {
	case err != nil:
		return err
	case failed != nil && i.cmd.State != "":
		return fmt.Errorf("stopped after line %d; the same command goes on from there", s.Line)
	case failed != nil:
		return fmt.Errorf("stopped after line %d; go on with --from-line %d", s.Line, s.Line+1)
	case s.Counts.Bad > 0:
		return fmt.Errorf("bad lines: %d", s.Counts.Bad)
	}
	return nil
}

// open opens the file where the import is to begin.
func (i *importer) open() error {
	c := i.cmd
	if err := i.openInput(); err != nil {
		return err
	}
	known, err := i.readState()
	switch {
	case err != nil:
		return err
	case known && c.FromLine > 1:
		return &usageError{fmt.Errorf("--from-line: %s says where to go on; remove it to begin elsewhere", c.State)}
	case c.FromLine > 1:
		err = i.skip(c.FromLine - 1)
	case known && i.in != nil:
		if _, err = i.in.Seek(i.state.Offset, io.SeekStart); err == nil {
			i.lines.Reset(i.in)
		}
	case known:
		err = i.skip(i.state.Line)
	}
	if err != nil {
		return err
	}
	i.begun, i.readTo = i.state.Line, place{i.state.Line, i.state.Offset}
	if c.Errors == "" {
		return nil
	}
	if i.errors, err = os.OpenFile(c.Errors, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
		// What was written after the state was, is written again.
		if err = i.errors.Truncate(i.state.ErrorsSize); err == nil {
			_, err = i.errors.Seek(i.state.ErrorsSize, io.SeekStart)
		}
	}
	if err != nil {
		return fmt.Errorf("open --errors: %w", err)
	}
	return nil
}

// skip passes over so many lines.
func (i *importer) skip(lines int64) error {
	var passed bytes.Buffer
	i.state.Line, i.state.Offset = 0, 0
	for i.state.Line < lines {
		passed.Reset()
		n, err := copyLine(&passed, i.lines)
		if n > 0 {
			i.state.Line++
			i.state.Offset += n
		}
		if errors.Is(err, io.EOF) && i.state.Line < lines {
			return &usageError{fmt.Errorf("%s has only %d lines", i.cmd.File, i.state.Line)}
		} else if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", i.cmd.File, err)
		}
	}
	return nil
}

func (i *importer) close() {
	if i.in != nil {
		_ = i.in.Close() // it was only read
	}
	if i.errors != nil {
		_ = i.errors.Close() // synced with each piece
	}
}

// writeState writes how far it came, so that a crash leaves the old or the new.
func (i *importer) writeState() error {
	if i.cmd.State == "" {
		return nil
	}
	b, err := json.Marshal(&i.state)
	if err != nil {
		return fmt.Errorf("write --state: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(i.cmd.State), filepath.Base(i.cmd.State)+".*")
	if err != nil {
		return fmt.Errorf("write --state: %w", err)
	}
	defer os.Remove(f.Name()) // unless it was renamed
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), i.cmd.State)
	}
	if err != nil {
		return fmt.Errorf("write --state: %w", err)
	}
	return nil
}
