package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

const (
	// importChunk is how many rows are written together: one of the log's batches.
	importChunk = 500
	// importChunks is how many chunks are on their way at a time, of all imports
	// together: one is written while others are read and looked up. Others' writes
	// take turns with them.
	importChunks = 4
	// importGather is how long a chunk waits for more rows.
	importGather = 5 * time.Millisecond
	// importReport is the number of rows between two lines of progress.
	importReport = 5000
	// maxImportLine is how long a line may be, in bytes: what an event may have.
	maxImportLine = events.MaxEvent
	// importPatience is how long the other side may take to send or to read.
	importPatience = 30 * time.Second
	// importLinger is how long, and importDiscard how much, is still read of a body
	// after the answer was given.
	importLinger  = time.Second
	importDiscard = 4 << 20
)

// importRun is one import on its way: a reader of the body, a goroutine that makes
// chunks of its rows, one for each chunk that is being written, and one that reports
// them in the order of the body.
type importRun struct {
	n      *Node
	c      *call
	app    *events.App
	stream uint8
	in     *bufio.Reader
	out    *bufio.Writer
	conn   *http.ResponseController
	rows   chan *importRow   // in the order of the body
	chunks chan *importBatch // likewise
	ended  atomic.Bool       // it is over before the body is

	// The rest is the reporter's.
	counts   api.ImportCounts
	settled  int64 // the last line of which, with all before it, is known what became
	revision events.Position
	stopped  error // why it ended early
	unsent   error // why nobody reads the answer
}

// importRow is one line of the body.
type importRow struct {
	line    int64
	text    []byte // nil: too long
	last    error  // not a row: the body ended, or cannot be read on
	created bool
	at      events.Position // of the session, or at which it was found
	err     error
}

// importBatch are rows that are written together.
type importBatch struct {
	app  *events.App
	rows []*importRow
	done chan struct{}
}

// importSessions answers POST /v1/sessions/import: sessions that another system
// began, one JSON object a line, as many as there are. Rows that are bad are
// reported and the rest is imported; what ends the import ends it with a line that
// says from where to go on. To send it all again does no harm.
func (n *Node) importSessions(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := n.newCall(w, r)
	status := http.StatusOK
	i, err := n.beginImport(w, r, c)
	if err == nil {
		c.h.Set("Content-Type", "application/x-ndjson")
		i.run(r.Context())
	} else {
		var body any
		status, body = n.failed(c, route{}, err)
		respond(w, c, status, body)
	}
	n.metrics.requests.WithLabelValues(r.Pattern, strconv.Itoa(status)).Observe(time.Since(start).Seconds())
}

// beginImport checks all that can be said before the first row.
func (n *Node) beginImport(w http.ResponseWriter, r *http.Request, c *call) (i *importRun, err error) {
	if c.caller, err = n.authorize(r, api.ScopeAdmin); err != nil {
		return nil, err
	}
	if _, err := readQuery(r.URL.RawQuery); err != nil {
		return nil, err
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, fail(api.MediaType, "Content-Encoding %q: want none", enc)
	}
	if ct := r.Header.Get("Content-Type"); ct != "" && !mediaNDJSON(ct) {
		return nil, fail(api.MediaType, "Content-Type %q: want application/x-ndjson", ct)
	}
	i = &importRun{
		n: n, c: c, in: bufio.NewReaderSize(nil, 64<<10), out: bufio.NewWriter(w), conn: http.NewResponseController(w),
		rows: make(chan *importRow, importChunk), chunks: make(chan *importBatch, importChunks),
	}
	if i.app, err = n.appOf(c); err != nil {
		return nil, err
	}
	if i.stream, err = n.importTo(r.Context(), i.app.App, c.caller.keyID); err != nil {
		return nil, err
	}
	if _, err = n.homeOf(events.SID{i.stream}); err != nil {
		return nil, err
	}
	if _, stale := n.freshAt(i.stream, n.wall()); stale != nil {
		return nil, stale
	}
	i.in.Reset(&patientReader{conn: i.conn, body: r.Body, ended: &i.ended})
	// Rows are answered while others are still to come. What cannot do it, such as a
	// recorder of a test, has all of the body at once.
	if err := i.conn.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	return i, nil
}

// mediaNDJSON reports whether a body of the type is taken for lines of JSON. As
// with one JSON value, what curl sends by itself is.
func mediaNDJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && slices.Contains([]string{
		"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/json",
		"application/octet-stream", "application/x-www-form-urlencoded", "text/plain",
	}, media)
}

// patientReader gives the other side time anew for each piece of the body: as a
// whole it may take as long as it likes.
type patientReader struct {
	conn  *http.ResponseController
	body  io.Reader
	ended *atomic.Bool
}

// Read implements [io.Reader].
func (r *patientReader) Read(b []byte) (int, error) {
	if !r.ended.Load() {
		_ = r.conn.SetReadDeadline(time.Now().Add(importPatience)) // without one, the server's own counts
	}
	return r.body.Read(b)
}

// run imports the rows and answers.
func (i *importRun) run(ctx context.Context) {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	go i.read(reading)
	go i.gather(reading)
	for chunk := range i.chunks {
		<-chunk.done
		for _, row := range chunk.rows {
			i.settle(row)
		}
		if i.stopped != nil && !i.ended.Swap(true) {
			i.finish()
			stop()
			_ = i.conn.SetReadDeadline(time.Now().Add(importLinger)) // without one it waits as long as for a row
		}
	}
	if i.stopped == nil {
		i.finish()
		return
	}
	// Who is still sending would not read an answer after which the connection ends.
	_, _ = io.CopyN(io.Discard, i.in, importDiscard)
}

// read makes rows of the body's lines until it ends, or ctx does.
func (i *importRun) read(ctx context.Context) {
	defer close(i.rows)
	for line := int64(1); ; line++ {
		row := &importRow{line: line}
		if row.last = ctx.Err(); row.last == nil {
			row.text, row.last = readLine(i.in)
		}
		i.rows <- row
		if row.last != nil {
			return
		}
	}
}

// gather makes chunks of the rows, and has them written.
func (i *importRun) gather(ctx context.Context) {
	defer close(i.chunks)
	lull := time.NewTimer(importGather)
	defer lull.Stop()
	for open := true; open; {
		row, ok := <-i.rows
		if !ok {
			return
		}
		chunk := &importBatch{app: i.app, rows: []*importRow{row}, done: make(chan struct{})}
		lull.Reset(importGather)
		for open && len(chunk.rows) < importChunk && !chunk.isLast() {
			select {
			case row, open = <-i.rows:
				if open {
					chunk.rows = append(chunk.rows, row)
				}
				continue
			case <-lull.C:
			}
			break
		}
		i.dispatch(ctx, chunk)
	}
}

// isLast reports whether nothing comes after the chunk.
func (b *importBatch) isLast() bool { return b.rows[len(b.rows)-1].last != nil }

// dispatch has the chunk written once there is room.
func (i *importRun) dispatch(ctx context.Context, chunk *importBatch) {
	if chunk.rows[0].last == nil {
		if chunk.rows[0].last = i.mayGoOn(); chunk.rows[0].last == nil {
			chunk.rows[0].last = i.n.importSlot(ctx)
		}
	}
	i.chunks <- chunk
	if chunk.rows[0].last != nil { // nothing of the chunk is imported
		close(chunk.done)
		return
	}
	chunk.app = i.app
	go func() {
		defer close(chunk.done)
		defer func() { <-i.n.importing }()
		i.n.importAll(context.WithoutCancel(ctx), chunk, i.stream, i.c)
	}()
}

// importSlot returns once one more chunk may be written.
func (n *Node) importSlot(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case n.importing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errLineTooLong: a line has more bytes than maxImportLine.
var errLineTooLong = fail(api.BodyTooLarge, "the line is over %d bytes", maxImportLine)

// readLine returns the next line without its end. One that is too long is nil; one
// that the body breaks off in is none.
func readLine(in *bufio.Reader) ([]byte, error) {
	var long bool
	for {
		part, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
			continue
		case err != nil && (!errors.Is(err, io.EOF) || len(part) == 0 && !long):
			return nil, err
		}
		part = bytes.TrimSuffix(bytes.TrimSuffix(part, []byte("\n")), []byte("\r"))
		if long || len(part) > maxImportLine {
			return nil, nil
		}
		return append(make([]byte, 0, len(part)), part...), nil
	}
}

// mayGoOn looks whether the caller still may do this, and with which settings: an
// import may take hours.
func (i *importRun) mayGoOn() error {
	caller, err := i.n.authorize(i.c.r, api.ScopeAdmin)
	if err != nil {
		return err
	}
	app, ok := i.n.app(caller.app)
	if !ok {
		return appNotFound(caller.app)
	}
	i.app = app
	return nil
}

// settle notes what became of the next row of the body.
func (i *importRun) settle(row *importRow) {
	err := row.err
	if row.last != nil {
		err = row.last
	}
	kind := ""
	if err != nil {
		kind = classify(err).kind
	}
	switch {
	case i.stopped != nil:
		return // a later row may have been imported; it is found to exist
	case errors.Is(row.last, io.EOF):
		return
	case row.last != nil:
		i.stopped = i.broken(row.last)
		return
	case errors.Is(err, errBlankLine):
	case kind == api.ImportExpired:
		i.counts.Expired++
	case kind == api.ForeignEnded:
		i.counts.Ended++
	case kind == api.InvalidArgument, kind == api.ClaimsTooLarge, kind == api.BodyTooLarge, kind == api.ForeignConflict:
		i.counts.Bad++
	case err != nil:
		i.stopped = err
		return
	case row.created:
		i.counts.Imported++
	default:
		i.counts.Exists++
	}
	i.settled = row.line
	if err != nil && !errors.Is(err, errBlankLine) {
		body := classify(err).body(i.n.issuer, i.c.id)
		i.send(&api.ImportError{
			Type: api.ImportLineError, Line: row.line, ErrorType: body.ErrorType, ErrorMessage: body.ErrorMessage, ErrorDetails: body.ErrorDetails,
		}, false)
	}
	if row.at.Gen > i.revision.Gen || row.at.Seq > i.revision.Seq {
		i.revision = row.at
	}
	if row.line%importReport == 0 {
		i.send(&api.ImportProgress{Type: api.ImportLineProgress, LastLine: i.settled, ImportCounts: i.counts}, true)
	}
}

// broken says why the body cannot be read on.
func (i *importRun) broken(err error) error {
	if _, ok := errors.AsType[*failure](err); ok {
		return err
	}
	if _, ok := errors.AsType[*staleError](err); ok {
		return err
	}
	return fail(api.InvalidArgument, "the body broke off, or nothing came for %s", importPatience).because(err)
}

// finish sends the summary.
func (i *importRun) finish() {
	line := &api.ImportSummary{Type: api.ImportLineSummary, LastLine: i.settled, Complete: i.stopped == nil, ImportCounts: i.counts, RequestID: i.c.id}
	if i.stopped != nil {
		_, body := i.n.failed(i.c, route{}, i.stopped)
		failed := body.(*api.Error)
		line.ErrorType, line.ErrorDetails = failed.ErrorType, failed.ErrorDetails
		line.ErrorMessage = fmt.Sprintf("%s; go on from line %d", failed.ErrorMessage, i.settled+1)
	}
	if i.revision.Stream != "" {
		line.Revision = i.revision.String()
	}
	i.send(line, true)
}

// send writes a line of the answer. Nobody may be there to read it: then the rows
// that were read are imported all the same.
func (i *importRun) send(line any, flush bool) {
	if i.unsent != nil {
		return
	}
	_ = i.conn.SetWriteDeadline(time.Now().Add(importPatience)) // without one, the server's own counts
	enc := json.NewEncoder(i.out)
	enc.SetEscapeHTML(false)
	if i.unsent = enc.Encode(line); i.unsent == nil && flush {
		if i.unsent = i.out.Flush(); i.unsent == nil {
			_ = i.conn.Flush() // what buffers sends it later
		}
	}
	if i.unsent != nil {
		i.stopped = i.unsent
	}
}
