package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// loadBatch is how many sessions are sent to Redis at a time.
const loadBatch = 1000

func missingRedis(context.Context, io.Writer) string {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return "redis-server is not installed: apt-get install redis-server"
	}
	return ""
}

// redisServer is a running redis-server.
type redisServer struct {
	*child
	addr, password string
}

// startRedis starts a redis-server that keeps everything in memory and nothing
// on disk. The password, which costs something only when a connection is made,
// keeps others on the machine out, and tells our server from another one that
// was given the same port at the same moment.
func startRedis(ctx context.Context, s *stage) (*redisServer, error) {
	logging.Disable() // what fails is returned as well, and waiting for the server fails at first
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	r := &redisServer{addr: "127.0.0.1:" + strconv.Itoa(port), password: hex.EncodeToString(random(16))}
	config := filepath.Join(s.dir, "redis.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\nsave \"\"\nappendonly no\nloglevel warning\n", port, r.password)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write redis.conf: %w", err)
	}
	if r.child, err = s.start(exec.Command("redis-server", config), syscall.SIGTERM); err != nil {
		return nil, err
	}
	db := r.client(&redis.Options{MaxRetries: -1, DialerRetries: 1})
	defer db.Close()
	return r, r.await(ctx, func(ctx context.Context) error { return db.Ping(ctx).Err() })
}

func (r *redisServer) client(o *redis.Options) *redis.Client {
	o.Addr, o.Password = r.addr, r.password
	return redis.NewClient(o)
}

// load stores all sessions: item returns the key and the value of the i-th. It
// returns by how much Redis's memory grew for each.
func (r *redisServer) load(ctx context.Context, s *stage, item func(i int) (key string, value []byte, err error)) (int64, error) {
	before, err := r.usedMemory(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.fill(ctx, s, item); err != nil {
		return 0, fmt.Errorf("load sessions: %w", err)
	}
	after, err := r.usedMemory(ctx)
	return (after - before) / int64(s.sessions), err
}

func (r *redisServer) fill(ctx context.Context, s *stage, item func(i int) (key string, value []byte, err error)) error {
	db := r.client(&redis.Options{PoolSize: 1})
	defer db.Close()
	pipe := db.Pipeline()
	for i := range s.sessions {
		key, value, err := item(i)
		if err != nil {
			return err
		}
		pipe.SetArgs(ctx, key, value, redis.SetArgs{ExpireAt: s.expires})
		if pipe.Len() == loadBatch || i == s.sessions-1 {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// usedMemory is what Redis has allocated. It asks on a connection of its own,
// so that the buffers of those that load are not counted.
func (r *redisServer) usedMemory(ctx context.Context) (int64, error) {
	db := r.client(&redis.Options{PoolSize: 1})
	defer db.Close()
	text, err := db.Info(ctx, "memory").Result()
	if err != nil {
		return 0, fmt.Errorf("ask for memory: %w", err)
	}
	for l := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(l), "used_memory:"); ok {
			return strconv.ParseInt(n, 10, 64)
		}
	}
	return 0, fmt.Errorf("ask for memory: no used_memory in %q", text)
}
