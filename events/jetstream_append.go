package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Append implements [Log]. Without a deadline in ctx it gives up after 5 s. It
// may store a message twice when an acknowledgement was lost: the copies carry
// one nonce and are one event.
func (j *JetStream) Append(ctx context.Context, m Message, e Expectation) (uint64, error) {
	seq, err := j.append(ctx, m, e)
	j.metrics.appends.inc(outcome(err))
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", j.name, err)
	}
	return seq, nil
}

func (j *JetStream) append(ctx context.Context, m Message, e Expectation) (uint64, error) {
	if err := j.checkMessage(&m); err != nil {
		return 0, err
	}
	return j.commit(ctx, m, e)
}

// checkMessage refuses what the stream would refuse, so that a bad message
// never spoils a batch.
func (j *JetStream) checkMessage(m *Message) error {
	switch {
	case !strings.HasPrefix(m.Subject, "ev."+j.region+"."):
		return fmt.Errorf("subject %q is not one of the stream", m.Subject)
	case m.TTL != 0 && (m.TTL < time.Second || m.TTL%time.Second != 0):
		return fmt.Errorf("TTL %s is not a number of whole seconds", m.TTL)
	case strings.ContainsAny(m.Seal, "\r\n"):
		return errors.New("seal has line breaks")
	case len(m.Payload) > MaxEvent, j.maxMsg > 0 && wireSize(m) > j.maxMsg:
		return ErrTooLarge
	}
	return nil
}

// commit publishes the message until it is stored, refused, or ctx ends.
func (j *JetStream) commit(ctx context.Context, m Message, e Expectation) (uint64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	marks := j.marks()
	seq, fresh, err := j.grouped(ctx, &m, e)
	if err == nil && fresh {
		marks.acknowledged(seq)
	}
	return seq, err
}

// single publishes the message by itself until it is stored, refused, or ctx
// ends. fresh is false when the sequence is that of an earlier attempt.
func (j *JetStream) single(ctx context.Context, m *Message, e Expectation) (seq uint64, fresh bool, err error) {
	msg := natsMsg(m, j.name)
	if e.Set {
		msg.Header[hdrExpSubject] = []string{strconv.FormatUint(e.Seq, 10)}
	}
	pause := backoff{}
	for {
		seq, err := j.publish(ctx, msg)
		if err == nil {
			return seq, true, nil
		}
		err = j.refusal(err)
		if errors.Is(err, ErrConflict) {
			seq, err := j.earlier(ctx, m)
			return seq, false, err
		}
		if !errors.Is(err, ErrUnavailable) || !transient(err) {
			return 0, false, err
		}
		if !pause.wait(ctx) {
			return 0, false, err
		}
		j.metrics.retries.Add(1)
	}
}

// publish sends the message once.
func (j *JetStream) publish(ctx context.Context, msg *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	resp, err := j.api.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return 0, explain(j.api.nc, msg.Subject, err)
	}
	ack, err := parseAck(resp.Data, j.name)
	return ack.Seq, err
}

// earlier is asked after a failed expectation: if the message that stands on
// the subject carries the same seal, and so the same nonce, it is this message,
// stored by an attempt whose acknowledgement was lost.
func (j *JetStream) earlier(ctx context.Context, m *Message) (uint64, error) {
	e, err := j.api.get(ctx, j.name, getRequest{LastFor: m.Subject})
	switch {
	case errors.Is(err, ErrNotFound):
		return 0, ErrConflict
	case err != nil:
		return 0, unanswered(err)
	case e.Seal != m.Seal || m.Seal == "" || e.TTL != m.TTL:
		return 0, ErrConflict
	}
	return e.Seq, nil
}

// refusal turns the error of a publish into one of a Log. What is not known to
// mean that nothing was stored is ErrUnavailable.
func (j *JetStream) refusal(err error) error {
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		if errors.Is(err, nats.ErrMaxPayload) {
			return ErrTooLarge
		}
		return unanswered(err)
	}
	switch e.ErrCode {
	case codeWrongSequence, codeWrongSequence2:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case codeTooLarge, codeHeaderTooLarge:
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case codeServerLimit, codeAccountLimit:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case codeOtherStream:
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	case codeStoreFailed:
		if strings.Contains(e.Text, "maximum") {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	if transient(err) {
		return unanswered(err)
	}
	return err
}

func unanswered(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// mark is how far a follower had come when an append began.
type mark struct {
	f         *follower
	delivered uint64
}

type marks []mark

// marks notes how far the followers have come.
func (j *JetStream) marks() marks {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.followers) == 0 {
		return nil
	}
	ms := make(marks, len(j.followers))
	for i, f := range j.followers {
		ms[i] = mark{f, f.delivered.Load()}
	}
	return ms
}

// acknowledged tells each follower that had applied seq before the message was
// even sent that the log went backwards: an own acknowledgement is proof,
// which a leader's answer never is.
func (ms marks) acknowledged(seq uint64) {
	for _, m := range ms {
		if seq <= m.delivered {
			m.f.prove(seq)
		}
	}
}

// enlist and retire keep the list of running followers.
func (j *JetStream) enlist(f *follower) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.followers = append(j.followers, f)
}

func (j *JetStream) retire(f *follower) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.followers = slices.DeleteFunc(slices.Clone(j.followers), func(g *follower) bool { return g == f })
}
