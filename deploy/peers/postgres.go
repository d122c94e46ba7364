package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

func missingPostgres(context.Context, io.Writer) string {
	if postgresProgram("postgres") == "" || postgresProgram("initdb") == "" {
		return "PostgreSQL is not installed (neither on PATH nor below /usr/lib/postgresql): apt-get install postgresql"
	}
	if _, err := postgresUser(); err != nil {
		return err.Error()
	}
	return ""
}

// postgresProgram returns the path of a program of PostgreSQL, "" if there is
// none. Debian keeps them off the PATH.
func postgresProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is good
	slices.SortFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) })
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// postgresVersion is the version in a path as above.
func postgresVersion(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 sorts first
	return n
}

// postgresUser returns as whom to run PostgreSQL, which refuses to run as root;
// nil for the one who runs this.
func postgresUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
}

// postgresServer is a running PostgreSQL.
type postgresServer struct {
	*child
	url string
}

// startPostgres starts a PostgreSQL that does not wait for the disk; it keeps
// sharedBuffers MB in memory.
func startPostgres(ctx context.Context, s *stage, sharedBuffers int) (*postgresServer, error) {
	credential, err := postgresUser()
	if err != nil {
		return nil, err
	}
	as := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(postgresProgram(name), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		cmd.Dir = s.dir
		return cmd
	}
	password := hex.EncodeToString(random(16))
	data, err := s.initDB(ctx, as, credential, password)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &postgresServer{url: fmt.Sprintf("postgres://peers:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port)}
	args := []string{"-D", data, "-p", strconv.Itoa(port)}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200",
		"shared_buffers=" + strconv.Itoa(sharedBuffers) + "MB",
		"fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_wal_size=8GB",
		"jit=off", "autovacuum=off", "log_min_messages=fatal",
	} {
		args = append(args, "-c", setting)
	}
	if p.child, err = s.start(as("postgres", args...), syscall.SIGQUIT); err != nil {
		return nil, err
	}
	return p, p.await(ctx, func(ctx context.Context) error {
		db, err := pgx.Connect(ctx, p.url)
		if err != nil {
			return err
		}
		return db.Close(ctx)
	})
}

// initDB makes a data directory that belongs to the server's user.
func (s *stage) initDB(ctx context.Context, as func(string, ...string) *exec.Cmd, credential *syscall.Credential, password string) (string, error) {
	data := filepath.Join(s.dir, "postgres")
	secret := filepath.Join(s.dir, "postgres.password")
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write password: %w", err)
	}
	if credential != nil {
		for _, path := range []string{data, secret} {
			if err := os.Chown(path, int(credential.Uid), int(credential.Gid)); err != nil {
				return "", fmt.Errorf("give away %s: %w", filepath.Base(path), err)
			}
		}
	}
	out, err := tool(ctx, as("initdb", "-D", data, "-U", "peers", "-A", "scram-sha-256", "--pwfile", secret,
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"))
	if err != nil {
		return "", fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return data, nil
}

// backends are the process ids of the server: the first one, those of its
// connections, and its helpers; but not that of the connection that asks.
func (p *postgresServer) backends(ctx context.Context) ([]int, error) {
	db, err := pgx.Connect(ctx, p.url)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer db.Close(ctx)
	pids := []int{p.pid()}
	rows, err := db.Query(ctx, "select pid from pg_stat_activity where pid <> pg_backend_pid()")
	if err != nil {
		return nil, fmt.Errorf("ask for processes: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return nil, fmt.Errorf("ask for processes: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, rows.Err()
}
