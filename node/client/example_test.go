package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
)

// startNode starts a node in this process, so that the examples run. A service has
// the address, the app and the API key from its configuration instead.
func startNode() (url, app, key string, stop func()) {
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		log.Fatal(err)
	}
	home := events.NewMemory("eu", 2, events.MemoryConfig{})
	n, err := node.New(node.Config{
		Name: "n1", PublicURL: "https://id.example.com", Keys: keys, Solo: true,
		Settings: events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{}), Home: home, Archive: home,
		Durability: func() string { return "fsync" },
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			log.Fatal(err)
		}
	})
	<-n.Ready()
	access := node.NewBootstrap("shop")
	if err := n.Bootstrap(ctx, access); err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(n.Handler())
	return server.URL, access.App, access.APIKey, func() {
		server.CloseClientConnections()
		cancel()
		server.Close()
		running.Wait()
	}
}

// A service that lets in whoever is logged in, and nobody for a moment longer.
func Example() {
	url, app, key, stop := startNode()
	defer stop()

	c := &client.Client{Base: url, App: app, APIKey: key}
	defer c.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) }) // its only errors are of the configuration
	defer running.Wait()
	defer cancel()

	cart := c.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := client.FromContext(r.Context())
		fmt.Fprintf(w, "the cart of %s", s.User)
	}))

	// Ada logs in. How she proves who she is, is the service's business.
	login, err := c.Create(ctx, &api.CreateSession{UserID: "ada"})
	if err != nil {
		fmt.Println(err)
		return
	}
	visit := func() {
		r := httptest.NewRequest(http.MethodGet, "/cart", nil)
		r.Header.Set("Authorization", "Bearer "+login.SessionJWT)
		w := httptest.NewRecorder()
		cart.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
	}
	<-c.Ready() // from here on the JWT is judged in this process
	visit()
	if _, err := c.Revoke(ctx, &api.Revoke{SessionID: login.Session.SessionID}); err != nil {
		fmt.Println(err)
		return
	}
	visit()
	// Output:
	// 200 the cart of ada
	// 401 {"error":"session_revoked"}
}

// A website whose cookie is a JWT: as long as that is young it is judged here, and
// when the API had to be asked the cookie is set anew.
func ExampleClient_Require() {
	url, app, key, stop := startNode()
	defer stop()
	c := &client.Client{Base: url, App: app, APIKey: key}
	defer c.CloseIdleConnections()

	setCookie := func(w http.ResponseWriter, jwt string, until time.Time) {
		http.SetCookie(w, &http.Cookie{
			Name: "__Host-session", Value: jwt, Expires: until, // of the session: the JWT may expire before
			Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		})
	}
	site := http.NewServeMux()
	site.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		login, err := c.Create(r.Context(), &api.CreateSession{UserID: "ada"}) // once she has proved who she is
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		setCookie(w, login.SessionJWT, login.Session.ExpiresAt)
	})
	site.Handle("GET /cart", c.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := client.FromContext(r.Context())
		if s.Detail != nil && s.JWT != "" { // the API was asked
			setCookie(w, s.JWT, s.Detail.ExpiresAt)
		}
		fmt.Fprintf(w, "the cart of %s", s.User)
	})))

	w := httptest.NewRecorder()
	site.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/login", nil))
	r := httptest.NewRequest(http.MethodGet, "/cart", nil)
	r.AddCookie(w.Result().Cookies()[0])
	w = httptest.NewRecorder()
	site.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body, "set anew:", len(w.Result().Cookies()) == 1) // nobody runs Run here
	// Output:
	// 200 the cart of ada set anew: true
}

// What an error says. Only some of them say that nobody is logged in.
func ExampleClient_Verify() {
	url, app, key, stop := startNode()
	defer stop()
	c := &client.Client{Base: url, App: app, APIKey: key}
	defer c.CloseIdleConnections()
	ctx := context.Background()
	login, err := c.Create(ctx, &api.CreateSession{UserID: "ada", CustomClaims: []byte(`{"plan":"pro"}`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, credential := range []string{login.SessionToken, login.SessionJWT, "something else"} {
		s, err := c.Verify(ctx, credential)
		switch {
		case errors.Is(err, client.ErrStale):
			fmt.Println("try again: nobody is logged out")
		case err != nil:
			fmt.Println("log in again")
		default:
			var claims struct{ Plan string }
			if err := s.Claims(&claims); err != nil {
				fmt.Println(err)
			}
			fmt.Println(s.User, "has the plan", claims.Plan)
		}
	}
	// Output:
	// ada has the plan pro
	// ada has the plan pro
	// log in again
}

// What was revoked anywhere is refused here, without asking anybody.
func ExampleClient_Run() {
	url, app, key, stop := startNode()
	defer stop()
	c := &client.Client{
		Base: url, App: app, APIKey: key,
		OnStale: client.Refuse, // for the example: what follows is not asked for
	}
	defer c.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	defer running.Wait()
	defer cancel()
	<-c.Ready()

	other := &client.Client{Base: url, App: app, APIKey: key}
	defer other.CloseIdleConnections()
	login, err := other.Create(ctx, &api.CreateSession{UserID: "ada"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = c.Verify(ctx, login.SessionJWT)
	fmt.Println("before:", err)
	gone, err := other.Revoke(ctx, &api.Revoke{SessionID: login.Session.SessionID, Wait: "all"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("receipt:", gone.Receipt.Status)
	for err == nil { // some milliseconds at most
		time.Sleep(time.Millisecond)
		_, err = c.Verify(ctx, login.SessionJWT)
	}
	fmt.Println("after:", err)
	// Output:
	// before: <nil>
	// receipt: complete
	// after: verify session: session revoked
}

// A page for which having logged in this morning is not enough.
func ExampleClient_RequireLogin() {
	url, app, key, stop := startNode()
	defer stop()
	c := &client.Client{Base: url, App: app, APIKey: key}
	defer c.CloseIdleConnections()
	transfer := c.RequireLogin(api.Require{AAL: "aal2"}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "sent")
	}))
	login, err := c.Create(context.Background(), &api.CreateSession{UserID: "ada", AssuranceLevel: "aal1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest(http.MethodPost, "/transfer", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-session", Value: login.SessionToken})
	w := httptest.NewRecorder()
	transfer.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
	// Output:
	// 401 Bearer error="insufficient_user_authentication", acr_values="aal2"
}

// Everything of a user but the session in which they ask for it.
func ExampleClient_Revoke() {
	url, app, key, stop := startNode()
	defer stop()
	c := &client.Client{Base: url, App: app, APIKey: key}
	defer c.CloseIdleConnections()
	ctx := context.Background()
	var here string
	for range 3 {
		login, err := c.Create(ctx, &api.CreateSession{UserID: "ada"})
		if err != nil {
			fmt.Println(err)
			return
		}
		here = login.Session.SessionID
	}
	gone, err := c.Revoke(ctx, &api.Revoke{UserID: "ada", ExceptSessionID: here, Reason: "password changed", Wait: "all"})
	if err != nil {
		fmt.Println(err)
		return
	}
	left, err := c.List(ctx, "ada", client.ListOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("revoked", gone.Revoked, "left", left.Total, "receipt", gone.Receipt.Status)
	// Output:
	// revoked 2 left 1 receipt complete
}
