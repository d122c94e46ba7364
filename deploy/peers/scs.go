package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/alexedwards/scs/redisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/gomodule/redigo/redis"
)

// jsonCodec is about twice as fast as gob, scs's default, which describes its
// types anew in each session.
type jsonCodec struct{}

type scsRecord struct {
	Deadline time.Time      `json:"deadline"`
	Values   map[string]any `json:"values"`
}

func (jsonCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	return json.Marshal(scsRecord{deadline, values})
}

func (jsonCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	var r scsRecord
	err := json.Unmarshal(b, &r)
	return r.Deadline, r.Values, err
}

// startSCS starts a server whose sessions alexedwards/scs keeps in Redis.
// Without an idle timeout, with which each request would write, and with keys
// that are not hashed: both are scs's defaults.
func startSCS(codec scs.Codec) func(context.Context, *stage) (service, error) {
	return func(ctx context.Context, s *stage) (service, error) { return startSCSWith(ctx, s, codec) }
}

func startSCSWith(ctx context.Context, s *stage, codec scs.Codec) (service, error) {
	server, err := startRedis(ctx, s)
	if err != nil {
		return service{}, err
	}
	manager := scs.New()
	manager.Codec = codec
	v := service{pid: os.Getpid(), backends: []int{server.pid()}}
	v.bytesPerSession, err = server.load(ctx, s, func(i int) (string, []byte, error) {
		token := newToken()
		if s.picked(i) {
			v.credentials = append(v.credentials, "Cookie: "+manager.Cookie.Name+"="+token)
		}
		user, text := s.session(i)
		value, err := manager.Codec.Encode(s.expires, map[string]any{"user_id": user, "session": string(text)})
		if err != nil {
			err = fmt.Errorf("encode session: %w", err)
		}
		return "scs:session:" + token, value, err
	})
	if err != nil {
		return v, err
	}
	// redigo closes what exceeds MaxIdle after each use: its default would
	// connect for every other request.
	manager.Store = redisstore.New(&redis.Pool{
		MaxIdle: poolSize,
		Dial:    func() (redis.Conn, error) { return redis.Dial("tcp", server.addr, redis.DialPassword(server.password)) },
	})
	v.url, err = s.serve(manager.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !atVerify(w, r) {
			return
		}
		if manager.GetString(r.Context(), "user_id") == "" {
			refuse(w)
			return
		}
		answer(w, []byte(manager.GetString(r.Context(), "session")))
	})))
	return v, err
}
