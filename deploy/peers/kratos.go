package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

func missingKratos(ctx context.Context, stderr io.Writer) string {
	if _, err := exec.LookPath("kratos"); err != nil {
		return "kratos is not installed (it is not on PATH): see github.com/ory/kratos"
	}
	return missingPostgres(ctx, stderr)
}

// kratosUUID is the id of the i-th thing of a kind.
func kratosUUID(kind byte, i int) (id [16]byte) {
	id[0], id[6], id[8] = kind, 0x40, 0x80 // version and variant of RFC 9562
	binary.BigEndian.PutUint32(id[12:], uint32(i))
	return id
}

// startKratos starts Ory Kratos on PostgreSQL. What it answers to
// /sessions/whoami is its own: the identity and how it logged in. Sessions are
// written into its tables, since logging in costs it a password hash each.
func startKratos(ctx context.Context, s *stage) (service, error) {
	server, err := startPostgres(ctx, s, 256+s.sessions/1000*3)
	if err != nil {
		return service{}, err
	}
	dsn := fmt.Sprintf("%s&max_conns=%d&max_idle_conns=%d", server.url, pgxConns, pgxConns)
	migrate := exec.Command("kratos", "migrate", "sql", "-e", "--yes")
	migrate.Env = append(os.Environ(), "DSN="+dsn)
	migrate.Dir = s.dir
	if out, err := tool(ctx, migrate); err != nil {
		return service{}, fmt.Errorf("migrate: %w\n%s", err, out[max(0, len(out)-1000):])
	}
	db, err := pgx.Connect(ctx, server.url)
	if err != nil {
		return service{}, fmt.Errorf("connect: %w", err)
	}
	defer db.Close(context.WithoutCancel(ctx))
	var v service
	if v.credentials, err = kratosLoad(ctx, s, db); err != nil {
		return v, fmt.Errorf("load sessions: %w", err)
	}
	var size int64
	if err := db.QueryRow(ctx, "select pg_total_relation_size('sessions') + pg_total_relation_size('identities')").Scan(&size); err != nil {
		return v, fmt.Errorf("ask for size: %w", err)
	}
	v.bytesPerSession = size / int64(s.sessions)
	if err := db.Close(ctx); err != nil {
		return v, fmt.Errorf("disconnect: %w", err)
	}
	if err := kratosServe(ctx, s, dsn, &v); err != nil {
		return v, err
	}
	v.backends, err = server.backends(ctx)
	return v, err
}

// kratosLoad stores one identity for each session and returns the credentials.
func kratosLoad(ctx context.Context, s *stage, db *pgx.Conn) ([]string, error) {
	network := kratosUUID('n', 0)
	if _, err := db.Exec(ctx, "insert into networks values ($1, $2, $2)", network, s.now); err != nil {
		return nil, err
	}
	each := func(row func(i int) []any) pgx.CopyFromSource {
		i := -1
		return pgx.CopyFromFunc(func() ([]any, error) {
			if i++; i == s.sessions {
				return nil, nil
			}
			return row(i), nil
		})
	}
	_, err := db.CopyFrom(ctx, pgx.Identifier{"identities"},
		[]string{"id", "schema_id", "traits", "created_at", "updated_at", "nid", "state", "state_changed_at", "available_aal"},
		each(func(i int) []any {
			traits := `{"email":"` + userID(i) + `"}`
			return []any{kratosUUID('i', i), "default", traits, s.now, s.now, network, "active", s.now, "aal1"}
		}))
	if err != nil {
		return nil, err
	}
	var credentials []string
	methods := fmt.Sprintf(`[{"method":"password","aal":"aal1","completed_at":%q}]`, s.now.Format(time.RFC3339))
	_, err = db.CopyFrom(ctx, pgx.Identifier{"sessions"},
		[]string{
			"id", "issued_at", "expires_at", "authenticated_at", "identity_id", "created_at", "updated_at",
			"token", "active", "nid", "logout_token", "aal", "authentication_methods",
		},
		each(func(i int) []any {
			token := "ory_st_" + hex.EncodeToString(random(16))
			if s.picked(i) {
				credentials = append(credentials, "X-Session-Token: "+token)
			}
			return []any{
				kratosUUID('s', i), s.now, s.expires, s.now, kratosUUID('i', i), s.now, s.now,
				token, true, network, "ory_lo_" + hex.EncodeToString(random(16)), "aal1", methods,
			}
		}))
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, "vacuum (freeze, analyze)")
	return credentials, err
}

// kratosServe starts the server, waits until it answers, and has it open its
// connections.
func kratosServe(ctx context.Context, s *stage, dsn string, v *service) error {
	var ports [2]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	config, err := kratosConfig(s, dsn, ports[0], ports[1])
	if err != nil {
		return err
	}
	cmd := exec.Command("kratos", "serve", "-c", config, "--sqa-opt-out")
	kratos, err := s.start(cmd, syscall.SIGTERM)
	if err != nil {
		return err
	}
	v.pid = kratos.pid()
	v.url = fmt.Sprintf("http://127.0.0.1:%d/sessions/whoami", ports[0])
	if err := kratos.await(ctx, func(ctx context.Context) error { return kratosAsk(ctx, v, 0) }); err != nil {
		return err
	}
	// It connects when it must: when several ask at once.
	var asking sync.WaitGroup
	errs := make([]error, 2*pgxConns)
	for i := range errs {
		asking.Go(func() {
			for k := 0; k < 20 && errs[i] == nil; k++ {
				errs[i] = kratosAsk(ctx, v, i*20+k)
			}
		})
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("ask: %w", err)
		}
	}
	return nil
}

// kratosAsk verifies one of the credentials.
func kratosAsk(ctx context.Context, v *service, i int) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, nil)
	if err != nil {
		return err
	}
	credential := v.credentials[i%len(v.credentials)]
	r.Header.Set("X-Session-Token", credential[len("X-Session-Token: "):])
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("kratos answered %d: %s", a.StatusCode, text)
	}
	return err
}

const kratosSchema = `{
  "$id": "https://example.com/default.schema.json",
  "$schema": "http://json-schema.org/draft-07/schema#",
  "type": "object",
  "properties": {
    "traits": {"type": "object", "properties": {"email": {"type": "string", "format": "email"}}}
  }
}`

// kratosConfig writes the configuration and returns its path.
func kratosConfig(s *stage, dsn string, public, admin int) (string, error) {
	schema := filepath.Join(s.dir, "identity.schema.json")
	if err := os.WriteFile(schema, []byte(kratosSchema), 0o600); err != nil {
		return "", fmt.Errorf("write identity schema: %w", err)
	}
	type object = map[string]any
	text, err := json.Marshal(object{
		"dsn": dsn,
		"log": object{"level": "error"},
		"serve": object{
			"public": object{"host": "127.0.0.1", "port": public, "base_url": fmt.Sprintf("http://127.0.0.1:%d/", public)},
			"admin":  object{"host": "127.0.0.1", "port": admin},
		},
		"secrets":     object{"cookie": []string{hex.EncodeToString(random(16))}, "cipher": []string{hex.EncodeToString(random(16))}},
		"selfservice": object{"default_browser_return_url": "http://127.0.0.1/"},
		"session":     object{"lifespan": "24h", "whoami": object{"required_aal": "aal1"}},
		"identity": object{
			"default_schema_id": "default",
			"schemas":           []object{{"id": "default", "url": "file://" + schema}},
		},
	})
	if err != nil {
		return "", fmt.Errorf("encode configuration: %w", err)
	}
	config := filepath.Join(s.dir, "kratos.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return config, nil
}
