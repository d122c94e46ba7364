package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const pgxSchema = `create table sessions (
	token_hash bytea not null,
	user_id    text not null,
	expires_at timestamptz not null,
	data       json not null
)`

// pgxVerify is prepared once for each connection, by pgx itself.
const pgxVerify = "select data from sessions where token_hash = $1 and expires_at > now()"

// startPGX starts a server that selects the session from PostgreSQL by the hash
// of the token, which is the primary key.
func startPGX(ctx context.Context, s *stage) (service, error) {
	// All sessions stay in the server's own memory.
	server, err := startPostgres(ctx, s, 128+s.sessions/1000*(s.body+400)/1000)
	if err != nil {
		return service{}, err
	}
	config, err := pgxpool.ParseConfig(server.url)
	if err != nil {
		return service{}, fmt.Errorf("configure pool: %w", err)
	}
	config.MaxConns, config.MinConns = pgxConns, pgxConns
	// The processes behind the connections are measured, so they stay.
	config.MaxConnLifetime, config.MaxConnIdleTime = math.MaxInt64, math.MaxInt64
	config.HealthCheckPeriod = time.Hour
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return service{}, fmt.Errorf("open pool: %w", err)
	}
	v := service{pid: os.Getpid()}
	if v.credentials, err = pgxLoad(ctx, s, db); err != nil {
		return v, fmt.Errorf("load sessions: %w", err)
	}
	var size int64
	if err := db.QueryRow(ctx, "select pg_total_relation_size('sessions')").Scan(&size); err != nil {
		return v, fmt.Errorf("ask for size: %w", err)
	}
	v.bytesPerSession = size / int64(s.sessions)
	if err := connectAll(ctx, db); err != nil {
		return v, err
	}
	if v.backends, err = server.backends(ctx); err != nil {
		return v, err
	}
	v.url, err = s.serve(bearer(func(ctx context.Context, token string) ([]byte, error) {
		var text []byte
		err := db.QueryRow(ctx, pgxVerify, hashed(token)).Scan(&text)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, errNoSession
		}
		if err != nil {
			return nil, err
		}
		return text, checked(text)
	}))
	return v, err
}

// pgxLoad stores all sessions and returns the credentials.
func pgxLoad(ctx context.Context, s *stage, db *pgxpool.Pool) ([]string, error) {
	if _, err := db.Exec(ctx, pgxSchema); err != nil {
		return nil, err
	}
	var credentials []string
	i := 0
	next := pgx.CopyFromFunc(func() ([]any, error) {
		if i == s.sessions {
			return nil, nil
		}
		token := newToken()
		if s.picked(i) {
			credentials = append(credentials, "Authorization: Bearer "+token)
		}
		user, text := s.session(i)
		i++
		return []any{hashed(token), user, s.expires, text}, nil
	})
	if _, err := db.CopyFrom(ctx, pgx.Identifier{"sessions"}, []string{"token_hash", "user_id", "expires_at", "data"}, next); err != nil {
		return nil, err
	}
	// Afterwards reads find nothing left to tidy up.
	for _, sql := range []string{"alter table sessions add primary key (token_hash)", "vacuum (freeze, analyze) sessions", "checkpoint"} {
		if _, err := db.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return credentials, nil
}

// connectAll opens every connection of the pool and has it prepare the
// statement.
func connectAll(ctx context.Context, db *pgxpool.Pool) error {
	conns := make([]*pgxpool.Conn, 0, pgxConns)
	defer func() {
		for _, c := range conns {
			c.Release()
		}
	}()
	for range pgxConns {
		c, err := db.Acquire(ctx)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		conns = append(conns, c)
		if _, err := c.Exec(ctx, pgxVerify, []byte{}); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	return nil
}
