package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// minNode is the oldest Node.js that package.json allows.
const minNode = 20

func missingExpress(ctx context.Context, stderr io.Writer) string {
	if why := missingRedis(ctx, stderr); why != "" {
		return why
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Sprintf("%s is not installed: Node.js %d or newer comes from nodejs.org or a distribution", tool, minNode)
		}
	}
	out, err := exec.CommandContext(ctx, "node", "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, _ := strconv.Atoi(major); err != nil || n < minNode {
		return fmt.Sprintf("Node.js %d or newer is needed, node says %q", minNode, strings.TrimSpace(string(out)))
	}
	if err := installNode(ctx, stderr); err != nil {
		return err.Error()
	}
	return ""
}

// installNode installs what package-lock.json pins, unless it is there. The
// lock file is also what keeps two of us from installing at once.
func installNode(ctx context.Context, stderr io.Writer) error {
	lock, err := os.Open("package-lock.json")
	if err != nil {
		return fmt.Errorf("install packages: %w (run deploy/peers/run)", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock package-lock.json: %w", err)
	}
	want, err := io.ReadAll(lock)
	if err != nil {
		return fmt.Errorf("read package-lock.json: %w", err)
	}
	mark := filepath.Join("node_modules", ".installed")
	if have, err := os.ReadFile(mark); err == nil && string(have) == string(want) {
		return nil
	}
	fmt.Fprintln(stderr, "peers: npm ci")
	if out, err := tool(ctx, exec.Command("npm", "ci", "--silent")); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, strings.Join(strings.Fields(string(out)), " "))
	}
	if err := os.WriteFile(mark, want, 0o644); err != nil {
		return fmt.Errorf("mark packages as installed: %w", err)
	}
	return nil
}

// expressConfig is what express.mjs reads from its standard input.
type expressConfig struct {
	Redis    string `json:"redis"` // host:port
	Password string `json:"password"`
	Secret   string `json:"secret"`
}

// startExpress starts express.mjs. The sessions are written here, in the form
// that connect-redis reads.
func startExpress(ctx context.Context, s *stage) (service, error) {
	server, err := startRedis(ctx, s)
	if err != nil {
		return service{}, err
	}
	secret := hex.EncodeToString(random(32))
	v := service{backends: []int{server.pid()}}
	v.bytesPerSession, err = server.load(ctx, s, func(i int) (string, []byte, error) {
		id := base64.RawURLEncoding.EncodeToString(random(24)) // as express-session makes them
		if s.picked(i) {
			v.credentials = append(v.credentials, "Cookie: connect.sid="+expressCookie(id, secret))
		}
		value, err := expressSession(s, i)
		return "sess:" + id, value, err
	})
	if err != nil {
		return v, err
	}
	node, port, err := startNode(ctx, s, expressConfig{server.addr, server.password, secret})
	if err != nil {
		return v, err
	}
	v.pid = node.pid()
	v.url = "http://127.0.0.1:" + port + "/verify"
	return v, nil
}

// expressSession is the value connect-redis stores for the i-th session.
func expressSession(s *stage, i int) ([]byte, error) {
	type cookie struct {
		MaxAge   int64  `json:"originalMaxAge"` // milliseconds
		Expires  string `json:"expires"`
		HTTPOnly bool   `json:"httpOnly"`
		Path     string `json:"path"`
	}
	_, text := s.session(i)
	value, err := json.Marshal(struct {
		Cookie  cookie          `json:"cookie"`
		Session json.RawMessage `json:"session"`
	}{
		cookie{s.expires.Sub(s.now).Milliseconds(), s.expires.Format("2006-01-02T15:04:05.000Z"), true, "/"}, text,
	})
	if err != nil {
		return nil, fmt.Errorf("encode session: %w", err)
	}
	return value, nil
}

// expressCookie signs an id as express-session does.
func expressCookie(id, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(id))
	return url.QueryEscape("s:" + id + "." + base64.RawStdEncoding.EncodeToString(mac.Sum(nil)))
}

// startNode starts express.mjs and returns the port it printed.
func startNode(ctx context.Context, s *stage, config expressConfig) (*child, string, error) {
	program, err := filepath.Abs("express.mjs")
	if err != nil {
		return nil, "", fmt.Errorf("find express.mjs: %w", err)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, "", fmt.Errorf("encode configuration: %w", err)
	}
	cmd := exec.Command("node", program)
	cmd.Env = append(os.Environ(), "NODE_ENV=production")
	cmd.Stdin = strings.NewReader(string(text))
	printed, out, err := os.Pipe()
	if err != nil {
		return nil, "", fmt.Errorf("make pipe: %w", err)
	}
	defer printed.Close()
	cmd.Stdout = out
	node, err := s.start(cmd, syscall.SIGTERM)
	out.Close()
	if err != nil {
		return nil, "", err
	}
	// A server that ends closes the pipe; one that is no longer wanted is ended.
	stop := context.AfterFunc(ctx, node.end)
	defer stop()
	port, err := bufio.NewReader(printed).ReadString('\n')
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		<-node.exited
		return nil, "", fmt.Errorf("node ended%s", node.lastWords())
	}
	if err != nil {
		return nil, "", fmt.Errorf("read port: %w", err)
	}
	return node, strings.TrimSpace(port), nil
}
