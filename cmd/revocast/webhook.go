package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/node/api"
)

type webhookCmd struct {
	Add          webhookAdd          `cmd:"" help:"Have an address told of events; prints the secret that signs, once."`
	List         webhookList         `cmd:"" help:"List webhooks, and how their deliveries fare."`
	Enable       webhookEnable       `cmd:"" help:"Go on with a webhook that was paused or disabled."`
	Remove       webhookRemove       `cmd:"" help:"Delete a webhook."`
	Test         webhookTest         `cmd:"" help:"Send a webhook.test now, and say what became of it."`
	DeadLetters  webhookDeadLetters  `cmd:"" help:"List the newest hundred events that the receiver refused."`
	Replay       webhookReplay       `cmd:"" help:"Deliver events again."`
	RotateSecret webhookRotateSecret `cmd:"" help:"Give a webhook another secret, and print it, once; both sign for a while."`
}

// hooks calls the API of webhooks of the app.
func (r *remote) hooks(e *env, app, method, path string, in, out any) (*client, []byte, error) {
	c, err := r.connect(e)
	if err != nil {
		return nil, nil, err
	}
	if app, err = c.appOr(app); err != nil {
		return nil, nil, err
	}
	raw, err := c.asAdmin().call(e, method, "/v1/webhooks"+path+"?app="+url.QueryEscape(app), in, out)
	return c, raw, err
}

// oneHook is what the commands about one webhook have in common.
type oneHook struct {
	remote
	inApp
	ID string `arg:"" help:"The webhook's id, as webhook list shows it."`
}

// ask calls the API of the webhook; path comes behind its id.
func (h *oneHook) ask(e *env, method, path string, in, out any) (*client, []byte, error) {
	return h.hooks(e, h.App, method, "/"+url.PathEscape(h.ID)+path, in, out)
}

// change is ask for what answers with the webhook, which it prints.
func (h *oneHook) change(e *env, method, path string, in any) error {
	var out api.WebhookAnswer
	c, raw, err := h.ask(e, method, path, in, &out)
	if err != nil {
		return err
	}
	return showHook(c, raw, &out)
}

// attempt is ask for what delivers now; it prints what became of that.
func (h *oneHook) attempt(e *env, path string, in any) error {
	var out api.DeliveryAttempt
	c, raw, err := h.ask(e, http.MethodPost, path, in, &out)
	if err != nil {
		return err
	}
	return showAttempt(c, raw, &out)
}

// showHook prints one webhook.
func showHook(c *client, raw []byte, out *api.WebhookAnswer) error {
	return c.show(raw, func(w io.Writer) {
		row(w, "webhook", out.Webhook.ID)
		row(w, "url", out.Webhook.URL)
		row(w, "types", strings.Join(out.Webhook.Types, ","))
		row(w, "status", strings.TrimSpace(out.Webhook.Status+" "+out.Webhook.Reason))
		if out.Secret != "" {
			row(w, "secret", out.Secret)
		}
	})
}

type webhookAdd struct {
	remote
	inApp
	URL         string   `arg:"" help:"Where events are POSTed: https, or in a network that serve --outbound-allow names."`
	Types       []string `env:"-" filled:"" placeholder:"TYPE" help:"Of which events (default: all), such as session.revoked,user.revoked."`
	Description string   `env:"-" placeholder:"TEXT" help:"What it is for."`
}

// Run implements the command.
func (a *webhookAdd) Run(e *env) error {
	var out api.WebhookAnswer
	c, raw, err := a.hooks(e, a.App, http.MethodPost, "", &api.CreateWebhook{URL: a.URL, Types: a.Types, Description: a.Description}, &out)
	if err != nil {
		return err
	}
	return showHook(c, raw, &out)
}

type webhookList struct {
	remote
	inApp
}

// Run implements the command.
func (l *webhookList) Run(e *env) error {
	var out api.WebhookList
	c, raw, err := l.hooks(e, l.App, http.MethodGet, "", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "ID", "URL", "REGION", "STATUS", "LAG", "DEAD", "LAST SUCCESS", "TROUBLE")
		for _, h := range out.Webhooks {
			for _, d := range h.Delivery {
				trouble := d.Reason
				if d.Failing != nil {
					trouble = cmp.Or(trouble, d.Failing.Reason) + " since " + stamp(d.Failing.Since)
				}
				row(w, h.ID, h.URL, d.Region, d.Status, strconv.FormatInt(d.LagSeconds, 10)+"s", strconv.FormatUint(d.DeadLetters, 10),
					stampOr(d.LastSuccessAt, "never"), cmp.Or(trouble, "-"))
			}
		}
	})
}

type webhookEnable struct{ oneHook }

// Run implements the command.
func (b *webhookEnable) Run(e *env) error {
	return b.change(e, http.MethodPatch, "", &api.PatchWebhook{Enabled: new(true)})
}

type webhookRemove struct{ oneHook }

// Run implements the command.
func (r *webhookRemove) Run(e *env) error {
	var out api.WebhookAnswer
	c, raw, err := r.ask(e, http.MethodDelete, "", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { row(w, "removed", out.Webhook.ID) })
}

type webhookTest struct{ oneHook }

// Run implements the command.
func (t *webhookTest) Run(e *env) error { return t.attempt(e, "/test", nil) }

// showAttempt prints what became of a delivery that was asked for; one that failed
// is an error.
func showAttempt(c *client, raw []byte, out *api.DeliveryAttempt) error {
	err := c.show(raw, func(w io.Writer) {
		row(w, "delivered", strconv.FormatBool(out.Delivered))
		if out.Status != 0 {
			row(w, "receiver's status", strconv.Itoa(out.Status))
		}
		if out.Reason != "" {
			row(w, "reason", out.Reason)
		}
	})
	if err == nil && !out.Delivered {
		err = fmt.Errorf("the receiver did not take it: %s", out.Reason)
	}
	return err
}

type webhookDeadLetters struct{ oneHook }

// Run implements the command.
func (d *webhookDeadLetters) Run(e *env) error {
	var out api.DeadLetterList
	c, raw, err := d.ask(e, http.MethodGet, "/dead-letters", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "REVISION", "TYPE", "HAPPENED", "GIVEN UP", "ATTEMPTS", "LAST STATUS")
		for _, l := range out.DeadLetters {
			row(w, l.Revision, l.Type, stamp(l.EventAt), stamp(l.FailedAt), l.Attempts, l.Status)
		}
	})
}

type webhookRotateSecret struct {
	oneHook
	Overlap *time.Duration `env:"-" placeholder:"TIME" help:"How long the present secret signs as well, at most 168h; 0s: not at all (default: 24h)."`
}

// Run implements the command.
func (r *webhookRotateSecret) Run(e *env) error {
	in := new(api.RotateSecret)
	if r.Overlap != nil {
		if *r.Overlap%time.Second != 0 {
			return &usageError{fmt.Errorf("--overlap %v: want whole seconds", *r.Overlap)}
		}
		in.OverlapSeconds = new(int64(*r.Overlap / time.Second))
	}
	return r.change(e, http.MethodPost, "/rotate-secret", in)
}

type webhookReplay struct {
	oneHook
	From       string `env:"-" placeholder:"REVISION" xor:"what" required:"" help:"All that came after this revision, in order; either this or --dead-letter."`
	DeadLetter string `env:"-" placeholder:"REVISION" xor:"what" required:"" help:"This one dead letter, now, as webhook dead-letters shows it."`
}

// Run implements the command.
func (r *webhookReplay) Run(e *env) error {
	in := &api.ReplayWebhook{From: r.From, DeadLetter: r.DeadLetter}
	if r.DeadLetter != "" {
		return r.attempt(e, "/replay", in)
	}
	return r.change(e, http.MethodPost, "/replay", in)
}
