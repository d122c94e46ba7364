package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/revocast/revocast/node/api"
)

type appLazyImport struct {
	remote
	App     string        `arg:"" help:"The app's id."`
	Ask     string        `env:"-" placeholder:"URL" xor:"what" help:"Have this address asked: https, or in a network that serve --outbound-allow names. Prints the secret that signs the questions, once."`
	Timeout time.Duration `env:"-" placeholder:"TIME" help:"With --ask: how long to wait for an answer, 100ms to 5s (default: 2s)."`
	Off     bool          `env:"-" xor:"what" help:"Ask nobody any more."`
}

// Help implements kong's HelpProvider.
func (*appLazyImport) Help() string {
	return `A token that nobody here knows, shown with an API key of the app or to
/v1/verify?app=APP, is then asked of the other system, once; what it says is
in openapi.yaml. Without --ask and --off it shows who is asked.`
}

// Run implements the command.
func (l *appLazyImport) Run(e *env) error {
	method, in := http.MethodGet, any(nil)
	switch {
	case l.Timeout%time.Millisecond != 0:
		return &usageError{fmt.Errorf("--timeout %v: want whole milliseconds", l.Timeout)}
	case l.Ask != "":
		method, in = http.MethodPut, &api.LazyImport{URL: l.Ask, TimeoutMS: l.Timeout.Milliseconds()}
	case l.Timeout != 0:
		return &usageError{errors.New("--timeout needs --ask")}
	case l.Off:
		method = http.MethodDelete
	}
	c, err := l.connect(e)
	if err != nil {
		return err
	}
	var out api.LazyImportAnswer
	raw, err := c.asAdmin().call(e, method, appPath(l.App)+"/lazy-import", in, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		if l.Off {
			row(w, "asked no more", out.LazyImport.URL)
			return
		}
		row(w, "asked", out.LazyImport.URL)
		timeout := time.Duration(out.LazyImport.TimeoutMS) * time.Millisecond
		if timeout == 0 {
			timeout = 2 * time.Second
		}
		row(w, "timeout", timeout.String())
		if out.LazyImport.Secret != "" {
			row(w, "secret", out.LazyImport.Secret)
		}
	})
}
