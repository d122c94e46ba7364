package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// chromium is a running browser with a profile of its own.
type chromium struct {
	ctx  context.Context
	shot int
	dir  string // for screenshots
}

// newChromium starts the browser, whose hidden tabs are throttled as a user's are.
func newChromium(t *testing.T) *chromium {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		fmt.Fprintf(os.Stderr, "NOT TESTED: %s: chromium is not installed, so the module for browsers was not tried in one\n", t.Name())
		t.Skip("NOT TESTED on this machine: chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(900, 760))
	for _, flag := range []string{"disable-background-timer-throttling", "disable-backgrounding-occluded-windows", "disable-renderer-backgrounding"} {
		options = append(options, chromedp.Flag(flag, false))
	}
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocator, end := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(end)
	ctx, end := chromedp.NewContext(allocator)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	return &chromium{ctx: ctx, dir: t.ArtifactDir()}
}

// tab is a page in a window.
type tab struct {
	t    *testing.T
	name string
	b    *chromium
	ctx  context.Context
	end  context.CancelFunc
}

// open opens the URL in a window of its own. Scripts run before those of the page.
func (b *chromium) open(t *testing.T, name, url string, scripts ...string) *tab {
	t.Helper()
	p := &tab{t: t, name: name, b: b}
	p.ctx, p.end = chromedp.NewContext(b.ctx)
	t.Cleanup(p.end)
	if err := chromedp.Do(p.ctx); err != nil {
		t.Fatalf("tab %s: %v", name, err)
	}
	for _, script := range scripts {
		if _, err := chromedp.Call(p.ctx, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: script}); err != nil {
			t.Fatalf("tab %s: %v", name, err)
		}
	}
	if err := chromedp.Do(p.ctx, chromedp.Navigate(url)); err != nil {
		t.Fatalf("tab %s: open %s: %v", name, url, err)
	}
	return p
}

// minimize hides the tab's window from its user, or shows it again.
func (p *tab) minimize(is bool) {
	p.t.Helper()
	bounds, want := &browser.Bounds{WindowState: browser.WindowStateNormal}, "visible"
	if is {
		bounds.WindowState, want = browser.WindowStateMinimized, "hidden"
	}
	w, err := chromedp.Call(p.ctx, browser.GetWindowForTarget, browser.GetWindowForTargetParams{})
	if err == nil {
		_, err = chromedp.Call(p.ctx, browser.SetWindowBounds, browser.SetWindowBoundsParams{WindowID: w.WindowID, Bounds: bounds})
	}
	if err != nil {
		p.t.Fatalf("tab %s: minimize %v: %v", p.name, is, err)
	}
	p.await(5*time.Second, fmt.Sprintf("document.visibilityState === %q", want))
}

// js runs an expression, and awaits it if it is a promise.
func js[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("tab %s: %s: %v", p.name, expression, err)
	}
	return v
}

// await waits until the expression is true, and returns how long that took.
func (p *tab) await(within time.Duration, expression string) time.Duration {
	p.t.Helper()
	begun := time.Now()
	for !js[bool](p, "!!("+expression+")") {
		if time.Since(begun) > within {
			p.t.Fatalf("tab %s: not in %v: %s; it shows:\n%s", p.name, within, expression, js[string](p, "document.body.innerText"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(begun)
}

func (p *tab) state() string { return js[string](p, "demo.session.state.status") }

// offline takes the network away from the tab, or gives it back.
func (p *tab) offline(is bool) {
	p.t.Helper()
	rules := []*network.Conditions{}
	if is {
		rules = append(rules, &network.Conditions{Offline: is, DownloadThroughput: -1, UploadThroughput: -1})
	}
	_, err := chromedp.Call(p.ctx, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: rules})
	if err == nil {
		_, err = chromedp.Call(p.ctx, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: is, DownloadThroughput: -1, UploadThroughput: -1})
	}
	if err != nil {
		p.t.Fatalf("tab %s: offline %v: %v", p.name, is, err)
	}
}

// screenshot keeps what the tab shows.
func (p *tab) screenshot(what string) {
	p.t.Helper()
	picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatalf("tab %s: screenshot: %v", p.name, err)
	}
	p.b.shot++
	file := filepath.Join(p.b.dir, fmt.Sprintf("%02d-%s-%s.png", p.b.shot, what, p.name))
	if err := os.WriteFile(file, picture, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// road stands between browser and node. It notes what is asked, and can be trouble.
type road struct {
	url  string
	mu   sync.Mutex // guards what follows
	mode string     // "": all is well
	held chan struct{}
	seen []asked
	open int // event streams
	kept int // answers
}

// asked is a request of a page for its next JWT, with the cookie.
type asked struct {
	background bool
	status     int
}

// Troubles on the road, of the routes for browsers.
const (
	fails      = "503"    // as a fenced node answers
	portal     = "portal" // 200, and a page of somebody else
	foreign401 = "401"    // of somebody else
	silent     = "silent" // no answer
	answered   = "held"   // the node's answer, which is kept back until held is closed
)

func newRoad(t *testing.T, to *node, addr string) *road {
	t.Helper()
	r := &road{url: "http://" + addr, held: make(chan struct{})}
	target, err := url.Parse("http://" + to.addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval, proxy.ErrorLog = -1, log.New(io.Discard, "", 0) // nodes are killed
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.pass(w, q, proxy) }))
	_ = server.Listener.Close()
	if server.Listener, err = listenAt(addr); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(func() {
		r.set("") // Close waits for who is kept waiting
		server.CloseClientConnections()
		server.Close()
	})
	return r
}

func (r *road) set(mode string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == answered {
		close(r.held)
		r.held = make(chan struct{})
	}
	r.mode = mode
}

func (r *road) pass(w http.ResponseWriter, q *http.Request, to http.Handler) {
	r.mu.Lock()
	mode, held := r.mode, r.held
	r.mu.Unlock()
	if !strings.HasPrefix(q.URL.Path, "/v1/client/") {
		mode = ""
	}
	refresh := q.URL.Path == "/v1/client/refresh" && q.Method == http.MethodPost
	var body struct {
		Background bool `json:"background"`
	}
	if refresh {
		text, _ := io.ReadAll(q.Body)
		_ = json.Unmarshal(text, &body)
		q.Body = io.NopCloser(strings.NewReader(string(text)))
	}
	answer := &noted{ResponseWriter: w, status: http.StatusOK}
	if strings.HasPrefix(q.URL.Path, "/v1/client/events") && q.Method == http.MethodGet {
		answer.begun = func(n int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.open += n
		}
		defer func() {
			if answer.wrote && answer.status == http.StatusOK {
				answer.begun(-1)
			}
		}()
	}
	switch mode {
	case fails:
		answer.Header().Set("Content-Type", "application/json")
		answer.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(answer, `{"status_code":503,"error_type":"node_stale","error_details":{"reason":"revoked"}}`)
	case portal, foreign401:
		answer.Header().Set("Content-Type", "text/html")
		answer.WriteHeader(map[string]int{portal: 200, foreign401: 401}[mode])
		_, _ = io.WriteString(answer, "<p>Please pay for the Wi-Fi.")
	case silent:
		<-q.Context().Done()
	default:
		if mode == answered && refresh {
			kept := httptest.NewRecorder()
			to.ServeHTTP(kept, q)
			r.hold(1)
			<-held
			r.hold(-1)
			for name, values := range kept.Header() {
				answer.Header()[name] = values
			}
			answer.WriteHeader(kept.Code)
			_, _ = answer.Write(kept.Body.Bytes())
			break
		}
		to.ServeHTTP(answer, q)
	}
	if refresh && q.Header.Get("Authorization") == "" {
		r.mu.Lock()
		r.seen = append(r.seen, asked{body.Background, answer.status})
		r.mu.Unlock()
	}
}

// asked returns the requests for a JWT since the n-th.
func (r *road) asked(n int) []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen[n:])
}

func (r *road) hold(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept += n
}

// keeps waits until so many answers are kept back, or more: a page may renew its JWT
// meanwhile.
func (r *road) keeps(t *testing.T, want int) {
	t.Helper()
	r.until(t, 10*time.Second, fmt.Sprintf("%d answers kept back", want), func() bool { return r.kept >= want })
}

// streams waits until so many event streams are open.
func (r *road) streams(t *testing.T, want int) {
	t.Helper()
	r.until(t, 45*time.Second, fmt.Sprintf("%d event streams open", want), func() bool { return r.open == want })
}

// until waits until it is so. r.mu is held for the look.
func (r *road) until(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		r.mu.Lock()
		ok, open, kept := is(), r.open, r.kept
		r.mu.Unlock()
		if ok {
			return
		}
		if time.Since(begun) > within {
			t.Fatalf("not in %v: %s; there are %d open and %d kept", within, what, open, kept)
		}
	}
}

// noted is a ResponseWriter that knows its status.
type noted struct {
	http.ResponseWriter
	status int
	wrote  bool
	begun  func(n int) // of an event stream
}

func (n *noted) WriteHeader(status int) {
	n.status, n.wrote = status, true
	if n.begun != nil && status == http.StatusOK {
		n.begun(1)
	}
	n.ResponseWriter.WriteHeader(status)
}

func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }
