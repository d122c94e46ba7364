package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"
)

// getter is the one command that verifying needs.
type getter interface {
	Get(ctx context.Context, key string) *redis.StringCmd
}

// startGoRedis starts a server that GETs the session from Redis by the hash of
// the token.
func startGoRedis(ctx context.Context, s *stage) (service, error) {
	return goRedis(ctx, s, func(db *redis.Client) (getter, error) { return db, nil })
}

// startGoRedisAuto lets go-redis gather the commands of concurrent requests
// into pipelines, which the library calls experimental.
func startGoRedisAuto(ctx context.Context, s *stage) (service, error) {
	return goRedis(ctx, s, func(db *redis.Client) (getter, error) { return db.AutoPipeline() })
}

func goRedis(ctx context.Context, s *stage, via func(*redis.Client) (getter, error)) (service, error) {
	server, err := startRedis(ctx, s)
	if err != nil {
		return service{}, err
	}
	v := service{pid: os.Getpid(), backends: []int{server.pid()}}
	v.bytesPerSession, err = server.load(ctx, s, func(i int) (string, []byte, error) {
		token := newToken()
		if s.picked(i) {
			v.credentials = append(v.credentials, "Authorization: Bearer "+token)
		}
		_, text := s.session(i)
		return redisKey(token), text, nil
	})
	if err != nil {
		return v, err
	}
	// A connection for each of the clients there are at most: waiting for one
	// costs more than having it.
	db, err := via(server.client(&redis.Options{PoolSize: poolSize, MinIdleConns: poolSize}))
	if err != nil {
		return v, fmt.Errorf("make client: %w", err)
	}
	v.url, err = s.serve(bearer(func(ctx context.Context, token string) ([]byte, error) {
		text, err := db.Get(ctx, redisKey(token)).Bytes()
		if errors.Is(err, redis.Nil) {
			return nil, errNoSession
		}
		if err != nil {
			return nil, err
		}
		return text, checked(text)
	}))
	return v, err
}

func redisKey(token string) string {
	return "session:" + base64.RawURLEncoding.EncodeToString(hashed(token))
}
