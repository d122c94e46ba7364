// Package scsstore is a session store for [github.com/alexedwards/scs/v2] that
// keeps sessions in Revocast. It is a Store, CtxStore, IterableStore and
// IterableCtxStore of scs, without importing it:
//
//	manager := scs.New()
//	manager.Store = &scsstore.Store{URL: "http://127.0.0.1:8080", Key: key, UserKey: "userID"}
//
// What it adds to a table in a database: "log this user out everywhere" ends the
// user's sessions of this app too, on every node, with a receipt; and a session
// that has ended stays so, whatever a request that was still running writes.
//
// Call RenewToken at log-in and at log-out, as scs asks anyway: the user of a
// session cannot change, and Commit returns an error that says so.
package scsstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/node/api"
)

// Store keeps the sessions of an scs.SessionManager in Revocast. It is safe for
// concurrent use; its fields must not change while it is used.
type Store struct {
	// URL is the address of a node, such as http://127.0.0.1:8080. More may
	// follow, separated by commas: the next is asked when one does not answer,
	// or answers that it cannot.
	URL string
	// Key is an API key of the app with the scopes create, read and revoke.
	Key string
	// UserKey is under which key of the session the application keeps the id of
	// the user who is logged in, a string or an integer. It is looked up in what
	// scs.GobCodec, scs's default, has encoded. Empty: User decides.
	UserKey string
	// User returns the id of the user from the encoded session, "" for nobody. It
	// is for other codecs, and for users that are found in the context. With
	// neither User nor UserKey sessions have no user: they can then be ended one
	// by one, but not by their user.
	User func(ctx context.Context, data []byte) (string, error)
	// Strong makes every Find one round trip to the region where the session
	// lives. Without it a Find knows all that this process wrote, and what others
	// did up to the node's staleness bound ago.
	Strong bool
	// Ended, if set, is called with the token when a session was to be written
	// that has ended: somebody was logged out while a request was running. That
	// is no error; nothing is written.
	Ended func(ctx context.Context, token string)
	// HTTP makes the requests. Nil: one with a timeout of 5 s. Redirects are not
	// followed: they would take tokens and the key elsewhere.
	HTTP *http.Client

	made sync.Once    // guards the making of http
	http *http.Client // HTTP, that follows no redirect

	mu       sync.Mutex // guards revision
	revision string     // of the newest write: what every later Find has to know
}

// idleConns is how many connections to a node are kept for the next requests. Of
// net/http's own 2 a busy service would make a new one for most requests.
const idleConns = 100

// client returns what makes the requests.
func (s *Store) client() *http.Client {
	s.made.Do(func() {
		one := http.Client{Timeout: 5 * time.Second}
		if s.HTTP != nil {
			one = *s.HTTP
		} else if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t = t.Clone()
			t.MaxIdleConnsPerHost = idleConns
			one.Transport = t
		}
		one.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		s.http = &one
	})
	return s.http
}

// String hides the key.
func (s *Store) String() string { return "store of sessions at " + s.URL }

// Format hides the key from every verb.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

// LogValue hides the key.
func (s *Store) LogValue() slog.Value { return slog.StringValue(s.String()) }

// maxAnswer is more than any answer has: a page of 500 sessions of 8 KiB.
const maxAnswer = 16 << 20

// Find implements scs.Store.
func (s *Store) Find(token string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), token)
}

// Commit implements scs.Store.
func (s *Store) Commit(token string, b []byte, expiry time.Time) error {
	return s.CommitCtx(context.Background(), token, b, expiry)
}

// Delete implements scs.Store.
func (s *Store) Delete(token string) error { return s.DeleteCtx(context.Background(), token) }

// All implements scs.IterableStore.
func (s *Store) All() (map[string][]byte, error) { return s.AllCtx(context.Background()) }

// FindCtx implements scs.CtxStore. That there is no such session is said only by
// a node that cannot be behind; from any other it is an error, so that nobody is
// taken for logged out who is not.
func (s *Store) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	if token == "" {
		return nil, false, nil
	}
	query := url.Values{}
	if revision := s.known(""); s.Strong {
		query.Set("consistency", "strong")
	} else if revision != "" {
		query.Set("at_least", revision)
	}
	var found api.StoredAnswer
	if err := s.ask(ctx, http.MethodGet, "/"+hash(token), query, nil, &found); isError(err, api.SessionNotFound) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("find session: %w", err)
	}
	data, err := base64.StdEncoding.DecodeString(found.Data)
	if err != nil {
		return nil, false, fmt.Errorf("find session: read data: %w", err)
	}
	return data, true, nil
}

// CommitCtx implements scs.CtxStore.
func (s *Store) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	if !time.Now().Before(expiry) {
		return s.DeleteCtx(ctx, token)
	}
	user, err := s.user(ctx, b)
	if err != nil {
		return fmt.Errorf("commit session: who is its user: %w", err)
	}
	body := &api.PutStored{Token: token, UserID: user, Data: base64.StdEncoding.EncodeToString(b), ExpiresAt: expiry.UTC()}
	var put api.StoredAnswer
	switch err := s.ask(ctx, http.MethodPut, "/"+hash(token), nil, body, &put); {
	case isError(err, api.ForeignEnded):
		if s.Ended != nil {
			s.Ended(ctx, token)
		}
	case err != nil:
		return fmt.Errorf("commit session: %w", err)
	default:
		s.known(put.Revision)
	}
	return nil
}

// DeleteCtx implements scs.CtxStore. The session is revoked: no later Commit
// brings it back.
func (s *Store) DeleteCtx(ctx context.Context, token string) error {
	if token == "" {
		return nil // RenewToken of a session that was never saved
	}
	var gone api.RevokeAnswer
	if err := s.ask(ctx, http.MethodDelete, "/"+hash(token), nil, nil, &gone); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	s.known(gone.Revision)
	return nil
}

// AllCtx implements scs.IterableCtxStore.
func (s *Store) AllCtx(ctx context.Context) (map[string][]byte, error) {
	all := map[string][]byte{}
	for cursor := ""; ; {
		query := url.Values{}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var page api.StoredList
		if err := s.ask(ctx, http.MethodGet, "", query, nil, &page); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		for _, one := range page.Sessions {
			data, err := base64.StdEncoding.DecodeString(one.Data)
			if err != nil {
				return nil, fmt.Errorf("list sessions: read data: %w", err)
			}
			if one.Token != "" {
				all[one.Token] = data
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			return all, nil
		}
	}
}

// known notes the revision of a write, if there is one, and returns the newest.
func (s *Store) known(revision string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision != "" && !older(revision, s.revision) {
		s.revision = revision
	}
	return s.revision
}

// older reports whether the revision is that of an earlier write than the other, as
// answers of writes that went on at once come in any order. Revisions are
// stream:generation:sequence; of others the last to come counts.
func older(revision, than string) bool {
	at, last := strings.LastIndexByte(revision, ':'), strings.LastIndexByte(than, ':')
	if at < 0 || last < 0 || revision[:at] != than[:last] {
		return false
	}
	a, err := strconv.ParseUint(revision[at+1:], 10, 64)
	b, failed := strconv.ParseUint(than[last+1:], 10, 64)
	return err == nil && failed == nil && a < b
}

func (s *Store) user(ctx context.Context, data []byte) (string, error) {
	switch {
	case s.User != nil:
		return s.User(ctx, data)
	case s.UserKey == "":
		return "", nil
	}
	// What scs.GobCodec encodes; it has no name there.
	var session struct {
		Deadline time.Time
		Values   map[string]any
	}
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&session); err != nil {
		return "", fmt.Errorf("UserKey needs scs.GobCodec: %w", err)
	}
	switch id := session.Values[s.UserKey].(type) {
	case nil:
		return "", nil
	case string:
		return id, nil
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(id), nil
	default:
		return "", fmt.Errorf("%s is a %T, neither a string nor an integer", s.UserKey, id)
	}
}

// ask asks one node after the other until one answers what is final. Every
// request can be repeated, so one that was lost is.
func (s *Store) ask(ctx context.Context, method, path string, query url.Values, body, out any) error {
	nodes := strings.Split(s.URL, ",")
	if len(nodes) == 1 {
		nodes = append(nodes, nodes[0])
	}
	var last error
	for _, node := range nodes {
		status, err := s.once(ctx, strings.TrimRight(strings.TrimSpace(node), "/"), method, path, query, body, out)
		final := status != 0 && status < http.StatusInternalServerError && !isError(err, api.Conflict)
		if err == nil || final || ctx.Err() != nil {
			return err
		}
		last = err
	}
	return last
}

// once asks one node. The error of an answer that is none of success is an
// *api.Error.
func (s *Store) once(ctx context.Context, node, method, path string, query url.Values, body, out any) (status int, err error) {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		payload = bytes.NewReader(data)
	}
	target := node + "/v1/store" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+s.Key)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := s.client().Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	if answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusCreated || answer.StatusCode == http.StatusAccepted {
		return answer.StatusCode, json.Unmarshal(data, out)
	}
	refused := &api.Error{}
	if json.Unmarshal(data, refused) != nil || refused.ErrorType == "" {
		return answer.StatusCode, fmt.Errorf("%s answered %s", node, answer.Status)
	}
	return answer.StatusCode, refused
}

// isError reports whether the error is an answer of the type.
func isError(err error, kind string) bool {
	refused, ok := errors.AsType[*api.Error](err)
	return ok && refused.ErrorType == kind
}

// hash is what a token is named by in a path: nobody can log in with it.
func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
