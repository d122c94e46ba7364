package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/revocast/revocast/node/api"
)

type statusCmd struct{ remote }

// Run implements the command. It needs no API key.
func (s *statusCmd) Run(e *env) error {
	c, err := s.connect(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(e.ctx, http.MethodGet, c.base+"/readyz", nil)
	if err != nil {
		return &usageError{fmt.Errorf("--url: %w", err)}
	}
	resp, raw, err := c.send(req)
	if err != nil {
		return err
	}
	// A node that is not ready says so with 503 and the same body.
	var out api.Ready
	if err := json.Unmarshal(raw, &out); err != nil || out.Node == "" {
		return c.refused(resp, raw)
	}
	err = c.show(raw, func(w io.Writer) {
		row(w, "node", out.Node)
		row(w, "address", c.base)
		row(w, "region", out.Region)
		row(w, "version", out.Version)
		row(w, "ready", yesNo(out.Ready))
		row(w, "durability", out.Durability)
		row(w, "cluster keys", strings.Join(out.ClusterKeys, ", "))
		if out.ClockOffsetMS != nil {
			row(w, "log's clock", fmt.Sprintf("%+d ms", *out.ClockOffsetMS))
		}
		row(w, "sessions", out.Sessions)
		row(w, "tombstones", out.Tombstones)
		if mem := out.Memory; mem != nil {
			row(w, "memory", fmt.Sprintf("%v of %v", byteSize(mem.UsedBytes), byteSize(mem.LimitBytes)))
		}
		fmt.Fprintln(w)
		row(w, "STREAM", "POSITION", "FRESH", "LEASE", "STALENESS", "USED", "BUDGET", "OVERWRITES", "DIGEST")
		for _, st := range out.Streams {
			row(w, st.Stream, st.Position, freshness(st), fmt.Sprintf("%d ms", st.LeaseMS), fmt.Sprintf("%d ms", st.StalenessMS),
				byteSize(st.Bytes), byteSize(st.MaxBytes), st.Overwrites, st.Digest)
		}
		if len(out.Problems) > 0 {
			fmt.Fprintln(w)
			row(w, "PROBLEM", "STREAM", "")
		}
		for _, p := range out.Problems {
			row(w, p.State, cmp.Or(p.Stream, "-"), p.Message)
		}
	})
	if err == nil && !out.Ready {
		return errNotReady
	}
	return err
}

// freshness is "yes", or "no" and why.
func freshness(st api.StreamState) string {
	if st.Fresh {
		return yesNo(true)
	}
	return fmt.Sprintf("%s (%s)", yesNo(false), st.Fenced)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type versionCmd struct {
	JSON bool `name:"json" env:"-" help:"Print JSON."`
}

// Run implements the command.
func (v *versionCmd) Run(e *env) error {
	if v.JSON {
		b, err := json.Marshal(map[string]string{"version": programVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
		if err != nil {
			return err
		}
		return (&client{out: e.stdout}).printJSON(b)
	}
	_, err := fmt.Fprintf(e.stdout, "revocast %s (%s, %s/%s)\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// programVersion is the module's version, or the commit the program was built
// from, as the Go command recorded it.
func programVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + dirty
}
