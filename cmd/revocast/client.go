package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/revocast/revocast/node/api"
)

// defaultURL is where a node listens unless it is told otherwise.
const defaultURL = "http://127.0.0.1:8080"

// clientTimeout bounds one call. A node gives up on its log after 5 s.
const clientTimeout = 20 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// remote is how a command reaches a node. Keys that are not given come from
// the bootstrap file of a local data directory, and only for the node that
// wrote it: they are never sent elsewhere.
type remote struct {
	URL      string `name:"url" placeholder:"URL" help:"Base URL of a node (default: that of the data directory, else http://127.0.0.1:8080)."`
	APIKey   string `name:"api-key" placeholder:"KEY" help:"API key; better in REVOCAST_API_KEY, as command lines can be seen by others (default: that of the data directory)."`
	AdminKey string `name:"admin-key" placeholder:"KEY" help:"Cluster admin key for administration; better in REVOCAST_ADMIN_KEY (default: that of the data directory)."`
	Data     string `placeholder:"DIR" default:"revocast-data" help:"Data directory of a local node, for its URL and keys (default: ./revocast-data)."`
	JSON     bool   `name:"json" env:"-" help:"Print the API's JSON."`
}

// inApp names the app a command is about.
type inApp struct {
	App string `env:"-" filled:"" placeholder:"APP" help:"The app (default: that of the API key, or of the data directory)."`
}

// connectFor is remote.connect for a command about sessions of the app: with an
// app's own key, or for any other app with the admin key.
func (a *inApp) connectFor(e *env, r *remote) (*client, error) {
	c, err := r.connect(e)
	if err != nil {
		return nil, err
	}
	if a.App == "" {
		return c, nil
	}
	if r.APIKey == "" && a.App != c.app {
		c.asAdmin()
	}
	c.named = a.App
	return c, nil
}

// client calls one node.
type client struct {
	base           string
	apiKey         string
	adminKey       string
	app            string // of the bootstrap file; "" unknown
	http           *http.Client
	out            io.Writer
	json           bool
	idempotencyKey string // of the next call; "" none
	named          string // the app that calls name; "" none
}

// connect finds out where the node is and with which keys to call it.
func (r *remote) connect(e *env) (*client, error) {
	b, err := dataAt(r.Data).readBootstrap()
	if err != nil && (r.URL == "" || r.APIKey == "" && r.AdminKey == "") {
		return nil, err
	}
	c := &client{base: strings.TrimRight(r.URL, "/"), apiKey: r.APIKey, adminKey: r.AdminKey, out: e.stdout, json: r.JSON}
	if b != nil && (c.base == "" || c.base == b.URL) {
		c.base, c.app = b.URL, b.App
		c.apiKey, c.adminKey = cmp.Or(r.APIKey, b.APIKey), cmp.Or(r.AdminKey, b.AdminKey)
	}
	c.base = cmp.Or(c.base, defaultURL)
	u, err := url.Parse(c.base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &usageError{fmt.Errorf("--url %q: want http(s)://host[:port]", c.base)}
	}
	c.http = &http.Client{
		Timeout: clientTimeout,
		// A redirect is a wrong --url, and would carry a POST as a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// asAdmin makes c call with the admin key where there is one; an app's key
// with the scope admin will do for its own app.
func (c *client) asAdmin() *client {
	c.apiKey = cmp.Or(c.adminKey, c.apiKey)
	return c
}

// call sends in (nil: no body) and reads the answer into out.
func (c *client) call(e *env, method, path string, in, out any) (raw []byte, err error) {
	if c.apiKey == "" {
		return nil, &usageError{errors.New("no API key: set REVOCAST_API_KEY, or run where the node's data directory is, or give it with --data")}
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(e.ctx, method, c.base+path, body)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--url: %w", err)}
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+c.apiKey)
	if c.named != "" {
		req.Header.Set("X-Revocast-App", c.named)
	}
	if c.idempotencyKey != "" {
		req.Header.Set("Idempotency-Key", c.idempotencyKey)
	}
	resp, raw, err := c.send(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return raw, c.refused(resp, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("read the answer of %s, which is not Revocast's: %w", c.base, err)
	}
	return raw, nil
}

// send sends the request and reads the answer whole.
func (c *client) send(req *http.Request) (*http.Response, []byte, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL a second time
		}
		return nil, nil, fmt.Errorf("%w at %s: %w", errUnreachable, c.base, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("%w at %s: %w", errUnreachable, c.base, err)
	}
	return resp, raw, nil
}

// refused returns the node's error, and prints it where JSON was asked for.
func (c *client) refused(resp *http.Response, raw []byte) error {
	failed := new(api.Error)
	if err := json.Unmarshal(raw, failed); err != nil || failed.ErrorType == "" {
		return &api.Error{StatusCode: resp.StatusCode, ErrorType: "http",
			ErrorMessage: fmt.Sprintf("%s does not answer as a node of Revocast does: %s", c.base, resp.Status)}
	}
	if c.json {
		if err := c.printJSON(raw); err != nil {
			return err
		}
	}
	if reason, ok := failed.ErrorDetails["reason"].(string); ok {
		failed.ErrorMessage += " (" + reason + ")"
	}
	return failed
}

func (c *client) printJSON(raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(raw), "", "  "); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(c.out)
	return err
}

// show prints the answer: as JSON if that was asked for, else as human does.
func (c *client) show(raw []byte, human func(w io.Writer)) error {
	if c.json {
		return c.printJSON(raw)
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	human(t)
	return t.Flush()
}

// appOr returns the app that was given, else that of the data directory.
func (c *client) appOr(app string) (string, error) {
	if app = cmp.Or(app, c.app); app == "" {
		return "", &usageError{errors.New("which app? give it with --app")}
	}
	return app, nil
}

// secretArg returns the argument, or for "-" or nothing the first line of
// stdin, so that a secret need not stand in a shell's history.
func (e *env) secretArg(arg, what string) (string, error) {
	if arg != "" && arg != "-" {
		return arg, nil
	}
	line, err := bufio.NewReader(io.LimitReader(e.stdin, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read stdin: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", &usageError{fmt.Errorf("no %s: give it as argument or on stdin", what)}
	}
	return line, nil
}

// stamp is a time as tables show it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// stampOr is a time that may be absent.
func stampOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return stamp(*t)
}

// row prints cells as a line of a table.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, printable(fmt.Sprint(c)))
	}
	fmt.Fprintln(w)
}

// printable keeps what others chose (user ids, reasons) from moving a
// terminal's cursor or a table's columns.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
}
