package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// nginxConfig is written as deploy/proxy/nginx is, and so keeps its connections
// to the node. It lacks what is for answers other than yes and no.
const nginxConfig = `daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path %[1]s/body;
    proxy_temp_path %[1]s/proxy;
    fastcgi_temp_path %[1]s/fastcgi;
    uwsgi_temp_path %[1]s/uwsgi;
    scgi_temp_path %[1]s/scgi;
    upstream revocast { server %[2]s; keepalive 64; }
    upstream application { server %[3]s; keepalive 64; }
%[4]s}
`

// nginxServer is one server, of an address and what comes before the application.
const nginxServer = `    server {
        listen %[1]s;
        location / {
%[2]s            auth_request_set $session_id      $upstream_http_x_session_id;
            auth_request_set $session_user    $upstream_http_x_session_user;
            auth_request_set $session_app     $upstream_http_x_session_app;
            auth_request_set $session_expires $upstream_http_x_session_expires;
            proxy_set_header X-Session-Id           $session_id;
            proxy_set_header X-Session-User         $session_user;
            proxy_set_header X-Session-App          $session_app;
            proxy_set_header X-Session-Expires      $session_expires;
            proxy_set_header X-Session-Reason       "";
            proxy_set_header X-Session-Jwt          "";
            proxy_set_header X-Session-Freshness    "";
            proxy_set_header X-Session-Staleness-Ms "";
            proxy_set_header X-Session-Background   "";
            proxy_set_header Host $host;
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
%[3]s    }
`

// nginxVerify is the location that asks the node, of a path.
const nginxVerify = `        location = /_verify {
            internal;
            proxy_pass http://revocast%s;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Transfer-Encoding "";
            proxy_set_header Expect "";
            proxy_set_header X-Session-Background "";
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 1s;
            proxy_read_timeout 3s;
        }
`

// nginxKinds are what is compared: the first is what the second is held against.
var nginxKinds = []struct{ name, path string }{
	{"nginx", ""}, {"auth_request", "/v1/verify"}, {"with a body", "/v1/verify?body=1"},
}

// nginx measures auth_request of nginx before a bare handler, beside the same
// nginx without it, and with an answer of the node that has a body.
func (r *runner) nginx(ctx context.Context) (err error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		r.report.skip("nginx", "nginx is not installed")
		return nil
	}
	tokens, err := r.tokens(ctx)
	if err != nil {
		return err
	}
	own, err := r.verifyTarget(ctx, "verify", getting(tokens))
	if err != nil {
		return err
	}
	bare, process, err := startBare(ctx, r.Program, own)
	defer process.kill()
	if err != nil {
		return err
	}
	server, addrs, err := startNginx(ctx, path, filepath.Join(r.dir, "nginx"), own.Addr, bare.Addr)
	defer func() { err = errors.Join(err, server.end()) }()
	if err != nil {
		return err
	}
	var targets []*Target
	for i, kind := range nginxKinds {
		t := &Target{Name: kind.name, Network: "tcp", Addr: addrs[i], Requests: own.Requests, Server: []int{server.pid()}}
		t.Backend = append(append(t.Backend, own.Server...), bare.Server...)
		want := 401
		if kind.path == "" {
			want = 204
		}
		if err := t.asks(getVerify("/", "none"), want); err != nil {
			return err
		}
		targets = append(targets, t)
	}
	c, err := compare(ctx, "nginx", r.Rounds, r.load(), targets)
	if err != nil {
		return err
	}
	r.report.Comparisons = append(r.report.Comparisons, c)
	r.report.ratio("nginx/rps", "auth_request of nginx, requests a second to those without", c.against(1, rps))
	r.report.ratio("nginx/body", "auth_request of nginx, requests a second to those when the node answers with a body", ratio(c.Targets[1], c.Targets[2], c.Targets[0], rps))
	r.report.ratio("nginx/cpu", "auth_request of nginx, CPU of nginx to that without", c.against(1, cpu))
	return nil
}

// asks makes sure that the target gives that status to the request, so that one
// that lets everybody in is not measured as one that verifies.
func (t *Target) asks(request []byte, want int) error {
	w, err := t.connect()
	if err != nil {
		return err
	}
	defer w.close()
	status, err := w.do(request)
	if err == nil && status != want {
		err = fmt.Errorf("status %d, want %d", status, want)
	}
	if err != nil {
		return fmt.Errorf("%s, asked with no good token: %w", t.Name, err)
	}
	return nil
}

// startNginx starts nginx below dir, with a server for each kind, and returns
// where they listen. It is one process, which is gone once it is ended. The
// caller ends it, also with an error.
func startNginx(ctx context.Context, path, dir, node, application string) (c *child, addrs []string, err error) {
	var servers string
	for _, kind := range nginxKinds {
		addr, err := freeAddr()
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, addr)
		auth, verify := "", ""
		if kind.path != "" {
			auth, verify = "            auth_request /_verify;\n", fmt.Sprintf(nginxVerify, kind.path)
		}
		servers += fmt.Sprintf(nginxServer, addr, auth, verify)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("configure nginx: %w", err)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, node, application, servers), 0o600); err != nil {
		return nil, nil, fmt.Errorf("configure nginx: %w", err)
	}
	if c, err = (Program{Path: path, Name: "nginx"}).start("-p", dir, "-c", file, "-e", "stderr"); err != nil {
		return c, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return c, addrs, until(ctx, startTimeout, func() error {
		select {
		case <-c.done: // nobody will answer any more
			cancel()
			return fmt.Errorf("nginx ended before it was ready: %s", c.log.tail())
		default:
		}
		conn, err := net.Dial("tcp", addrs[len(addrs)-1])
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
