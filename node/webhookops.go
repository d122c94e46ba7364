package node

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// rotateSecret answers POST /v1/webhooks/{id}/rotate-secret. Until the overlap is
// over two secrets sign, so that a receiver can change from one to the other at any
// moment of it.
func (n *Node) rotateSecret(ctx context.Context, c *call) (int, any, error) {
	var in api.RotateSecret
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	overlap := defaultOverlap
	if in.OverlapSeconds != nil {
		if *in.OverlapSeconds < 0 || *in.OverlapSeconds > int64(maxOverlap/time.Second) {
			return 0, nil, badSetting("overlap_seconds", "want 0 to %d", int64(maxOverlap/time.Second))
		}
		overlap = time.Duration(*in.OverlapSeconds) * time.Second
	}
	key, shown, err := newWebhookSecret(in.Secret)
	if err != nil {
		return 0, nil, err
	}
	_, w, err := n.namedWebhook(c)
	if err != nil {
		return 0, nil, err
	}
	secrets := []webhookSecret{{Key: key}}
	if overlap > 0 {
		old := w.Secrets[0]
		old.Until = n.wall() + overlap.Milliseconds()
		secrets = append(secrets, old)
	}
	w.Secrets = secrets
	return n.answerWebhook(ctx, c, http.StatusOK, w, shown)
}

// listDeadLetters answers GET /v1/webhooks/{id}/dead-letters.
func (n *Node) listDeadLetters(_ context.Context, c *call) (int, any, error) {
	snap, w, err := n.namedWebhook(c)
	if err != nil {
		return 0, nil, err
	}
	list := &api.DeadLetterList{DeadLetters: []api.DeadLetter{}}
	id := endpointID{c.caller.app, webhookType, w.id}
	for _, d := range n.deliveryStatus(snap, id, &w.Delivery) {
		dead := deadLettersOf(snap, id, d.Region, w.Delivery.Born)
		list.Total += dead.Total
		for _, l := range dead.Letters {
			list.DeadLetters = append(list.DeadLetters, api.DeadLetter{
				Revision: events.Position{Stream: d.Region, Gen: l.Gen, Seq: l.Seq}.String(), Type: l.Type, EventAt: fromMS(l.LoggedAt), FailedAt: fromMS(l.At), Attempts: l.Attempts, Status: l.Status,
			})
		}
	}
	slices.SortStableFunc(list.DeadLetters, func(a, b api.DeadLetter) int { return b.FailedAt.Compare(a.FailedAt) })
	return http.StatusOK, list, nil
}

// replayWebhook answers POST /v1/webhooks/{id}/replay.
func (n *Node) replayWebhook(ctx context.Context, c *call) (int, any, error) {
	var in api.ReplayWebhook
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	snap, w, err := n.namedWebhook(c)
	switch {
	case err != nil:
		return 0, nil, err
	case (in.From == "") == (in.DeadLetter == ""):
		return 0, nil, badSetting("from", "want either from or dead_letter")
	case in.DeadLetter != "":
		return n.replayDeadLetter(ctx, c, snap, w, in.DeadLetter)
	}
	from, err := n.replayable(in.From)
	if err != nil {
		return 0, nil, err
	}
	w.Delivery.again(from)
	return n.answerWebhook(ctx, c, http.StatusOK, w, "")
}

// replayDeadLetter delivers one dead letter now, whoever else delivers, and strikes
// it off if the receiver takes it.
func (n *Node) replayDeadLetter(ctx context.Context, c *call, snap *projection.Snapshot, w *heldWebhook, revision string) (int, any, error) {
	id := endpointID{c.caller.app, webhookType, w.id}
	at, err := events.ParsePosition(revision)
	if err != nil {
		return 0, nil, badSetting("dead_letter", "%v", err)
	}
	dead := deadLettersOf(snap, id, at.Stream, w.Delivery.Born)
	if !slices.ContainsFunc(dead.Letters, func(l deadLetter) bool { return l.isAt(at) }) {
		return 0, nil, fail(api.NotFound, "webhook %s has no dead letter %s", w.id, revision)
	}
	e, err := n.eventAt(ctx, c.caller.app, at)
	if err != nil {
		return 0, nil, err
	}
	out, err := n.attemptNow(ctx, snap, c.caller.app, w.id, e)
	if err != nil {
		return 0, nil, err
	}
	if out.Delivered {
		err = n.changeDeadLetters(ctx, id, at.Stream, w.Delivery.Born, func(d *deadLetters) bool { return d.remove(at) })
	}
	return http.StatusOK, out, err
}

// eventAt returns what the log says at the position.
func (n *Node) eventAt(ctx context.Context, app string, at events.Position) (*feedEvent, error) {
	s := n.streamOf(at.Stream)
	if s == nil || s == n.settings {
		return nil, &staleError{stream: at.Stream, reason: reasonStarting}
	}
	lost := fail(api.CursorGone, "the log no longer holds the event at %s", at)
	if at.Gen != s.position().Gen {
		return nil, lost
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	f := feedFilter{app: app}
	var found *feedEvent
	err := s.log.Read(ctx, events.Range{From: at.Seq, To: at.Seq, Filters: f.subjects(at.Stream)}, func(e events.Entry) bool {
		r := n.conf.Keys.Decode(s.number, e)
		found = s.feedEvent(&r, at, at.Seq-1)
		return false
	})
	switch {
	case err != nil:
		return nil, fail(api.HomeUnreachable, "the log of region %s does not answer", at.Stream).because(err)
	case found == nil:
		return nil, lost
	}
	return found, nil
}

// testWebhook answers POST /v1/webhooks/{id}/test.
func (n *Node) testWebhook(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	snap, w, err := n.namedWebhook(c)
	if err != nil {
		return 0, nil, err
	}
	now := n.conf.Clock.Wall().UTC().Truncate(time.Millisecond)
	data, err := marshal(&api.WebhookTestEvent{Type: api.EventWebhookTest, At: now, AppID: c.caller.app, WebhookID: w.id})
	if err != nil {
		return 0, nil, err
	}
	// A position that no event has, so that the id of the message is its own.
	at := events.Position{Stream: "test", Seq: uint64(now.UnixNano())}
	e := &feedEvent{Event: &api.Event{Type: api.EventWebhookTest, AppID: c.caller.app, At: now}, pos: at, json: data}
	out, err := n.attemptNow(ctx, snap, c.caller.app, w.id, e)
	return http.StatusOK, out, err
}

// attemptNow tells the webhook of the event once, apart from what is on its way to it.
func (n *Node) attemptNow(ctx context.Context, snap *projection.Snapshot, app, id string, e *feedEvent) (*api.DeliveryAttempt, error) {
	held, ok := snap.Setting(app, webhookType, id)
	if !ok {
		return nil, noWebhook(id)
	}
	to, err := openWebhook(n, snap, held)
	if err != nil {
		return nil, err
	}
	select {
	case n.deliveries.byHand <- struct{}{}:
		defer func() { <-n.deliveries.byHand }()
	case <-ctx.Done():
		return nil, errors.New("the caller went away")
	}
	began := n.conf.Clock.Boot()
	out := n.send(ctx, to, e, func(time.Duration) time.Duration { return sendTimeout })
	return &api.DeliveryAttempt{
		Delivered: out.verdict == taken, Status: out.status, Reason: out.reason, TookMS: (n.conf.Clock.Boot() - began).Milliseconds(),
	}, nil
}
