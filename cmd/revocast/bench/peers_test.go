package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPeerTarget(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	two := write("two", "Authorization: Bearer a\r\n\nCookie: s=b\n")
	p := runningPeer{Name: "p", URL: "http://127.0.0.1:1234/verify?x=1", PID: 7, BackendPIDs: []int{8, 9}, Credentials: two, Status: 200}
	got, err := p.target()
	if err != nil {
		t.Fatal(err)
	}
	if got.Addr != "127.0.0.1:1234" || len(got.Requests) != 2 || got.Requests[1].Want != 200 || got.Server[0] != 7 || len(got.Backend) != 2 {
		t.Errorf("got %+v", got)
	}
	if text := string(got.Requests[1].Bytes); text != "GET /verify?x=1 HTTP/1.1\r\nHost: 127.0.0.1:1234\r\nCookie: s=b\r\n\r\n" {
		t.Errorf("request is %q", text)
	}
	for name, bad := range map[string]runningPeer{
		"url":  {URL: "https://127.0.0.1:1/", Credentials: two},
		"port": {URL: "http://127.0.0.1/", Credentials: two},
		"file": {URL: "http://127.0.0.1:1/", Credentials: two + "x"},
		"none": {URL: "http://127.0.0.1:1/", Credentials: write("none", "\n\n")},
	} {
		if _, err := bad.target(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestProgramThatIsNotThere(t *testing.T) {
	c, err := Program{Path: filepath.Join(t.TempDir(), "none"), Name: "none"}.start("list")
	if err == nil || c.end() != nil {
		t.Errorf("got %v", err)
	}
	c.kill() // callers do, whatever became of it
}

func TestListPeers(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"good":    {`echo '{"name":"a","available":true}{"name":"b","why":"gone"}'`, ""},
		"fails":   {`echo no such thing >&2; exit 3`, "exit status 3: no such thing"},
		"no json": {`echo hello`, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "peers")
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			all, err := listPeers(t.Context(), Program{Path: file, Name: file})
			switch {
			case tt.want == "" && (err != nil || len(all) != 2 || !all[0].Available || all[1].Why != "gone"):
				t.Errorf("got %+v, %v", all, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
