package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

type clusterKeyCmd struct {
	List   clusterKeyList   `cmd:"" help:"List the cluster keys that a node holds, and what still needs each."`
	New    clusterKeyNew    `cmd:"" help:"Make a new cluster key and put it first in the key file. Nodes seal with it as soon as all of them hold it."`
	Rotate clusterKeyRotate `cmd:"" help:"Have a node seal all that is in the log with the first key, and say when the others may go. Safe at any time, and again after a crash."`
	Retire clusterKeyRetire `cmd:"" help:"Remove a cluster key from the key file, unless something still needs it."`
}

// keyFile names a file with cluster keys that a command changes.
type keyFile struct {
	ClusterKeyFile string `placeholder:"FILE" help:"File with the cluster keys (default: cluster.key in the data directory)."`
}

// in returns the file of the data directory or that of the flag.
func (k *keyFile) in(d dataDir) (string, error) {
	if _, ok := os.LookupEnv(clusterKeyEnv); ok {
		return "", &usageError{fmt.Errorf("the cluster keys are in %s and not in a file: change that, one key a line, and restart the node", clusterKeyEnv)}
	}
	return cmp.Or(k.ClusterKeyFile, d.keyFile()), nil
}

type clusterKeyList struct{ remote }

// Run implements the command.
func (k *clusterKeyList) Run(e *env) error {
	c, err := k.connect(e)
	if err != nil {
		return err
	}
	var out api.ClusterKeyList
	raw, err := c.asAdmin().call(e, http.MethodGet, "/v1/cluster-keys", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { clusterKeys(w, &out) })
}

func clusterKeys(w io.Writer, out *api.ClusterKeyList) {
	row(w, "KEY", "SEALS", "MAY GO", "NOT HELD BY", "NEEDED")
	for _, k := range out.Keys {
		row(w, k.KeyID, yes(k.Sealing), yes(k.MayGo), cmp.Or(strings.Join(k.Lacking, ", "), "-"), cmp.Or(strings.Join(k.Needed, "; "), "-"))
	}
	if r := &out.Rotation; r.State != "none" {
		row(w)
		row(w, "rotation", r.State)
		row(w, "looked at", r.Scanned)
		row(w, "sealed anew", r.Resealed)
		if r.Error != "" {
			row(w, "error", r.Error)
		}
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type clusterKeyNew struct {
	keyFile
	Data  string `placeholder:"DIR" default:"revocast-data" help:"Data directory of the node (default: ./revocast-data)."`
	Print bool   `env:"-" help:"Change no file: print the key, for REVOCAST_CLUSTER_KEY or a vault."`
}

// Run implements the command.
func (k *clusterKeyNew) Run(e *env) error {
	key := events.NewClusterKey()
	if k.Print {
		_, err := fmt.Fprintln(e.stdout, events.FormatClusterKey(key))
		return err
	}
	file, err := k.in(dataAt(k.Data))
	if err != nil {
		return err
	}
	if _, err := readKeyFile(file); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read cluster key: %w", err)
	}
	if err := writeFile(file, append([]byte(events.FormatClusterKey(key)+"\n"), text...)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%s is the first key in %s.\nGive this file to every node, and back it up. Nodes seal with the key once all of them hold it; then run: revocast cluster-key rotate\n",
		events.ClusterKeyID(key), file)
	return err
}

type clusterKeyRotate struct{ remote }

// Run implements the command.
func (k *clusterKeyRotate) Run(e *env) error {
	c, err := k.connect(e)
	if err != nil {
		return err
	}
	out, raw, err := rotateClusterKey(e, c.asAdmin())
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		clusterKeys(w, out)
		for _, k := range out.Keys {
			if k.MayGo {
				row(w)
				row(w, fmt.Sprintf("%s may go: revocast cluster-key retire --yes -- %s, for each node. Until %s the history of sessions can hold events that cannot be read without it.",
					k.KeyID, k.KeyID, stampOr(k.HistoryUntil, "-")))
			}
		}
	})
}

const (
	// rotatePoll is the time between two looks at a rotation; rotateShow that
	// between two lines about it on stderr.
	rotatePoll = 200 * time.Millisecond
	rotateShow = 5 * time.Second
)

// rotateClusterKey has the node rotate and returns how it ended.
func rotateClusterKey(e *env, c *client) (*api.ClusterKeyList, []byte, error) {
	out := new(api.ClusterKeyList)
	raw, err := c.call(e, http.MethodPost, "/v1/cluster-keys/rotate", nil, out)
	shown := time.Now()
	for err == nil && out.Rotation.State == "running" {
		select {
		case <-time.After(rotatePoll):
		case <-e.ctx.Done():
			return nil, nil, fmt.Errorf("stopped waiting; the node goes on: %w", e.ctx.Err())
		}
		if time.Since(shown) >= rotateShow {
			shown = time.Now()
			fmt.Fprintf(e.stderr, "sealed anew: %d, looked at: %d\n", out.Rotation.Resealed, out.Rotation.Scanned)
		}
		out = new(api.ClusterKeyList)
		raw, err = c.call(e, http.MethodGet, "/v1/cluster-keys", nil, out)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case out.Rotation.State == "failed":
		return nil, nil, fmt.Errorf("rotation ended early: %s; run it again", out.Rotation.Error)
	case out.Rotation.State != "complete":
		return nil, nil, errors.New("the node was restarted or changed its key meanwhile: run it again")
	}
	return out, raw, nil
}

type clusterKeyRetire struct {
	remote
	keyFile
	Key string `arg:"" help:"The key's id, as list shows it; behind -- as it may begin with a dash."`
	Yes bool   `env:"-" help:"Really: what only this key opens cannot be read any more, such as the history from before the rotation."`
}

// Run implements the command.
func (k *clusterKeyRetire) Run(e *env) error {
	file, err := k.in(dataAt(k.Data))
	if err != nil {
		return err
	}
	if !k.Yes {
		return &usageError{fmt.Errorf("without cluster key %s the history from before the rotation cannot be read: add --yes, or keep it as the last in %s", k.Key, file)}
	}
	keys, err := readKeyFile(file)
	if err != nil {
		return err
	}
	if !keys.Holds(k.Key) {
		return fmt.Errorf("cluster key %s is not in %s, which holds %s", k.Key, file, strings.Join(keys.IDs(), ", "))
	}
	c, err := k.connect(e)
	if err != nil {
		return err
	}
	// Once more, so that what is said of the key is said of the log as it is now.
	out, raw, err := rotateClusterKey(e, c.asAdmin())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(out.Keys, func(a api.ClusterKey) bool { return a.KeyID == k.Key })
	if i >= 0 && !out.Keys[i].MayGo {
		return fmt.Errorf("cluster key %s is still needed: %s", k.Key, strings.Join(out.Keys[i].Needed, "; "))
	}
	if err := removeKey(file, k.Key); err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, fmt.Sprintf("%s is no longer in %s. Remove it from the file of every other node as well.", k.Key, file))
	})
}

// removeKey removes the key's line from the file and leaves the others as they are.
func removeKey(file, id string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read cluster key: %w", err)
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if key, err := events.ParseClusterKey(strings.TrimSpace(line)); err == nil && events.ClusterKeyID(key) == id {
			continue
		}
		kept.WriteString(line)
	}
	if _, err := events.ParseClusterKeys(kept.String()); err != nil {
		return fmt.Errorf("remove cluster key %s: nothing would be left: %w", id, err)
	}
	return writeFile(file, []byte(kept.String()))
}
